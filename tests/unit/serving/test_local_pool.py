import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from math import inf
from typing import Any, cast

import numpy as np
import pytest

from models.session import ModelRunError, Tensor, VariantLost
from serving.local_pool import LocalPool
from serving.ports import ModelFailed, VariantUnavailable, WorkerLost

KEY = ("m/1", "v")
INPUTS = {"x": np.zeros((1, 1), np.float32)}


class Gate:
    """In the place of a model: runs until the test opens it, and counts how many run at a time."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.ran: list[str] = []
        self.error: Exception | None = None
        self.waits = False
        self.budgets_s: list[float] = []

    def run(self, inputs: Mapping[str, Tensor], budget_s: float = inf) -> dict[str, Tensor]:
        self.budgets_s.append(budget_s)
        self.ran.append(threading.current_thread().name)
        self.entered.release()
        self.open.wait(30)
        if self.error is not None:
            raise self.error
        return {"y": inputs["x"]}


def pool_of(gate: Gate, workers: int = 1) -> LocalPool:
    return LocalPool({KEY: gate}, workers)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def start(pool: LocalPool) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(pool.run(*KEY, INPUTS, 1.0))


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.acquire, timeout=30)


async def test_as_many_batches_run_at_a_time_as_there_are_workers(gate: Gate) -> None:
    pool = pool_of(gate, workers=2)
    runs = [start(pool) for _ in range(3)]
    await entered(gate)
    await entered(gate)
    assert len(set(gate.ran)) == len(gate.ran) == 2
    gate.open.set()
    for execution in await asyncio.gather(*runs):
        assert execution.outputs["y"] is INPUTS["x"]
    await pool.close()


async def test_a_call_given_up_before_it_began_is_not_run(gate: Gate) -> None:
    pool = pool_of(gate)
    running, waiting = start(pool), start(pool)
    await entered(gate)
    waiting.cancel()
    gate.open.set()
    await running
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await pool.close()
    assert len(gate.ran) == 1


async def test_closing_tells_callers_at_once_while_the_thread_still_computes(gate: Gate) -> None:
    pool = pool_of(gate)
    running, waiting = start(pool), start(pool)
    await entered(gate)
    closing = asyncio.ensure_future(pool.close())
    for call in (running, waiting):
        with pytest.raises(WorkerLost):
            await call
    assert not closing.done()
    gate.open.set()
    await closing
    assert len(gate.ran) == 1
    assert not any(thread.is_alive() for thread in pool._threads)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelRunError("bad row"), ModelFailed),
        (VariantLost("nobody there"), VariantUnavailable),
        (MemoryError(), WorkerLost),
    ],
)
async def test_a_worker_outlives_what_a_session_raises(gate: Gate, error: Exception, kind: type[Exception]) -> None:
    pool = pool_of(gate)
    gate.open.set()
    gate.error = error
    with pytest.raises(kind):
        await start(pool)
    gate.error = None
    assert (await start(pool)).outputs.keys() == {"y"}
    await pool.close()


async def test_a_session_that_is_not_there_leaves_nobody_waiting(gate: Gate) -> None:
    pool = pool_of(gate)
    with pytest.raises(WorkerLost):
        await pool.run("m/1", "other", INPUTS, 1.0)
    await pool.close()


def test_a_loop_that_is_gone_ends_the_worker() -> None:
    gate = Gate()

    async def leave() -> LocalPool:
        pool = pool_of(gate)
        start(pool)
        await entered(gate)
        return pool

    pool = asyncio.run(leave())
    gate.open.set()
    (thread,) = pool._threads
    thread.join(30)
    assert not thread.is_alive()


async def test_longer_batches_are_not_taken_for_short_ones(gate: Gate) -> None:
    """A kind that proved quick runs in the loop; one of as many rows, but longer ones, has yet to prove it."""
    gate.open.set()
    pool = LocalPool({KEY: gate}, 1, inline_s=30.0)
    for columns in (16, 16, 64, 64):
        await pool.run(*KEY, {"x": np.zeros((2, columns), np.float32)}, 1.0)
    await pool.close()
    here = threading.current_thread().name
    assert [name == here for name in gate.ran] == [False, True, False, True]


async def test_kinds_are_bounded_whatever_lengths_callers_send(gate: Gate) -> None:
    gate.open.set()
    pool = LocalPool({KEY: gate}, 1, inline_s=30.0)
    for columns in range(200):
        await pool.run(*KEY, {"x": np.zeros((1, columns), np.float32)}, 1.0)
    await pool.close()
    assert len(pool._usual_s) <= 9


async def test_what_runs_elsewhere_is_never_waited_for_in_the_loop(gate: Gate) -> None:
    gate.open.set()
    gate.waits = True
    pool = LocalPool({KEY: gate}, 1, inline_s=30.0)
    for _ in range(3):
        execution = await pool.run(*KEY, INPUTS, 0.5)
        assert execution.service_s == execution.compute_s, "no processor time tells how long it took"
    await pool.close()
    assert threading.current_thread().name not in gate.ran
    assert gate.budgets_s == [0.5] * 3


async def test_models_come_and_go_while_others_run(gate: Gate) -> None:
    pool = pool_of(gate)
    running = start(pool)
    await entered(gate)
    later = Gate()
    later.open.set()
    pool.add({("n/1", "v"): cast("Any", later)})
    pool.drop("m/1")
    assert (pool.holds("n/1"), pool.holds("m/1")) == (True, False)
    gate.open.set()
    assert (await running).outputs["y"] is INPUTS["x"], "what had begun ends"
    assert (await pool.run("n/1", "v", INPUTS, 1.0)).outputs["y"] is INPUTS["x"]
    with pytest.raises(WorkerLost):
        await pool.run(*KEY, INPUTS, 1.0)
    await pool.close()
