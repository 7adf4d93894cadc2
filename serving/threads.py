"""Work beside the event loop that nobody has to wait for at the end of the process."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_daemon(work: Callable[[], T], name: str) -> T:
    """Run `work` in a thread of its own that does not hold up the exit; returns or raises as it does.

    The threads of `asyncio.to_thread` are waited for when the loop ends, and fetching or measuring a model may take
    minutes. Cancelling gives up on the result only.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            _tell(loop, _fail, ended, error)
        else:
            _tell(loop, _succeed, ended, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await ended


def _tell(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *rest: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(how, *rest)


def _succeed(ended: asyncio.Future[T], result: T) -> None:
    if not ended.done():
        ended.set_result(result)


def _fail(ended: asyncio.Future[T], error: BaseException) -> None:
    if not ended.done():
        ended.set_exception(error)
