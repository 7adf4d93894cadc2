import asyncio
import threading

import pytest

from serving.threads import NAMES, in_daemon, outlast


async def test_a_result_and_an_error_come_back() -> None:
    assert await in_daemon(lambda: threading.current_thread().name, "work") == "work"

    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await in_daemon(fails, "work")


async def test_the_loop_goes_on_and_whoever_gives_up_does_not_wait() -> None:
    go, ended = threading.Event(), threading.Event()
    task = asyncio.create_task(in_daemon(lambda: (go.wait(30), ended.set()), "work"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await asyncio.to_thread(ended.wait, 30)


def test_the_end_of_the_loop_does_not_wait() -> None:
    go, started = threading.Event(), threading.Event()

    async def main() -> None:
        task = asyncio.create_task(in_daemon(lambda: (started.set(), go.wait(30)), "work"))
        assert await asyncio.to_thread(started.wait, 30)
        task.cancel()

    asyncio.run(main())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "work" and thread.is_alive())
    assert thread.daemon
    go.set()
    thread.join(30)
    assert not thread.is_alive()


async def test_a_thread_that_ends_is_waited_for_and_one_that_does_not_is_told() -> None:
    go = threading.Event()
    task = asyncio.create_task(in_daemon(lambda: go.wait(30), f"{NAMES}test"))
    await asyncio.sleep(0)
    assert not await asyncio.to_thread(outlast, 0.01)
    go.set()
    assert await asyncio.to_thread(outlast, 30.0)
    assert await task
