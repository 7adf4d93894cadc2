"""Work shared out to processes: results come as they end, and all ends at once when nobody wants more.

Not `concurrent.futures`: its pool cannot be ended in the middle of a task, and one whose processes were killed may
wait for its own threads for ever when the interpreter exits. Here the parent has no threads, only pipes to look at.
"""

import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

NICE = 10

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class CrewError(RuntimeError):
    """A process of the crew died."""


def share_out(
    work: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], processes: int
) -> Generator[ResultT, None, None]:
    """What `work` makes of each task, in the order in which they end. Everything crosses by pickle.

    To stop early close the iterator: the processes are killed, so `work` must not hold what could be lost.
    Raises what `work` raises, and `CrewError`.
    """
    context = get_context("spawn")
    crew: dict[Connection, BaseProcess] = {}
    waiting = iter(tasks)
    try:
        for task in islice(waiting, processes):
            line, theirs = context.Pipe()
            crew[line] = context.Process(target=_serve, args=(work, theirs), daemon=True)
            crew[line].start()
            theirs.close()
            line.send(task)
        busy = set(crew)
        while busy:
            ready = wait(busy)
            for line in [line for line in busy if line in ready]:
                outcome = line.recv()
                busy.discard(line)
                for task in islice(waiting, 1):
                    line.send(task)
                    busy.add(line)
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise CrewError("a worker process died, perhaps for want of memory; try with fewer processes") from error
    finally:
        for member in crew.values():
            member.kill()
        for line, member in crew.items():
            member.join()
            member.close()
            line.close()


def _serve(work: Callable[[Any], Any], line: Connection) -> None:
    """A worker process: others go first, and Ctrl-C is its parent's affair."""
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            task = line.recv()
            try:
                outcome = work(task)
            except Exception as error:  # noqa: BLE001 - it is raised where the results are read
                error.add_note(traceback.format_exc())
                outcome = error
            line.send(outcome)
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
