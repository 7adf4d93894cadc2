import os
import signal
import time
from multiprocessing import active_children

import psutil
import pytest

from loadtests.crew import CrewError, share_out


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


def end_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def whoami(_: bytes) -> int:
    return os.getpid()


def never(_: int) -> None:
    time.sleep(3600)


def test_every_task_has_its_result() -> None:
    assert sorted(share_out(square, range(20), 3)) == [number * number for number in range(20)]
    assert not active_children()


def test_processes_are_not_more_than_asked_for_and_large_tasks_pass() -> None:
    large = bytes(1 << 20)  # does not fit into a pipe
    pids = list(share_out(whoami, [large] * 6, 2))
    assert len(pids) == 6
    assert 1 <= len(set(pids)) <= 2
    assert os.getpid() not in pids


def test_what_a_task_raises_is_raised_and_says_where() -> None:
    with pytest.raises(ValueError, match="-4 is negative") as raised:
        list(share_out(square, [-4], 2))
    assert "in square" in raised.value.__notes__[0]
    assert not active_children()


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(CrewError, match="died"):
        list(share_out(end_at_three, range(10), 2))
    assert not active_children()


def test_closing_ends_processes_in_the_middle_of_a_task() -> None:
    results = share_out(end_at_three, [1, 2], 1)
    assert next(results) == 1
    started = [psutil.Process(child.pid) for child in active_children()]
    assert started
    results.close()
    assert not any(process.is_running() for process in started)


def test_a_closed_crew_does_not_wait_for_its_work() -> None:
    def tasks():
        yield 1
        raise KeyboardInterrupt  # what a second Ctrl-C does, wherever it comes

    with pytest.raises(KeyboardInterrupt):
        list(share_out(never, tasks(), 2))
    assert not active_children()
