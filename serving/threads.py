"""Work beside the event loop that nobody has to wait for at the end of the process."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
NAMES = "gearshift-"
"""How the names of such threads begin, and of those that run models."""


async def in_daemon(work: Callable[[], T], name: str) -> T:
    """Run `work` in a thread of its own that does not hold up the exit; returns or raises as it does.

    The threads of `asyncio.to_thread` are waited for when the loop ends, and fetching or measuring a model may take
    minutes. Cancelling gives up on the result only. `name` begins with `NAMES`.
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


def outlast(within_s: float) -> bool:
    """Give such threads that long to end. False when one is still at work: then the process must end by `os._exit`.

    The interpreter stops a daemon thread where it next takes the lock. Where that is inside a C++ library, unwinding
    its stack ends the whole process with SIGABRT.
    """
    end_s = time.monotonic() + within_s
    for thread in threading.enumerate():
        if thread.daemon and thread.name.startswith(NAMES):
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                return False
    return True


def _tell(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *rest: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(how, *rest)


def _succeed(ended: asyncio.Future[T], result: T) -> None:
    if not ended.done():
        ended.set_result(result)


def _fail(ended: asyncio.Future[T], error: BaseException) -> None:
    if not ended.done():
        ended.set_exception(error)
