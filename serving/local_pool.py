"""A `VariantBackend` over runners in this process: no hop between the queue and the model.

Batches run in worker threads, except those that take less time than handing them over: they run where they are.
"""

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from models.runner import Runner
from models.session import ModelRunError, VariantLost
from serving.ports import Execution, ExecutionError, ModelFailed, Tensors, VariantUnavailable, WorkerLost

CLOSE_TIMEOUT_S = 5.0
INLINE_S = 0.0003
"""Batches usually quicker than this run in the event loop itself. A hand-over costs about 0.1 ms of processor
(70 to 140 us seen), and its way back waits for the interpreter lock: up to its switch interval of 5 ms when the
loop is busy."""
INLINE_ALONE_S = 0.0015
"""The same for a pool of one worker: with a core to itself the process gains little from computing beside the loop.
Two such replicas, against `INLINE_S`, small MLP, 64 connections: 9.0 and 7.5 thousand requests/s, and on a busier
host 4.7 and 3.8. Two pairs of runs only."""

_Kind = tuple[str, str, int, int]
"""(model, variant, rows, elements a row to the nearest power of two): batches that take about the same time."""


@dataclass(slots=True)
class _Job:
    kind: _Kind
    inputs: Tensors
    budget_s: float
    future: asyncio.Future[Execution]
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context
    """That of the batch: a remote variant goes on in its trace."""


class LocalPool:
    """Worker threads that each run one batch at a time. ONNX Runtime releases the GIL while it computes."""

    depth = 1
    batch_overhead_s = 0.0002
    """Assumed: the hand-over (about 0.1 ms, measured) and as much again for task, merge and split."""

    def __init__(
        self, sessions: Mapping[tuple[str, str], Runner], workers: int, *, inline_s: float | None = None
    ) -> None:
        """`sessions` by (model key, variant name), shared by all workers: they are safe to run concurrently.

        `inline_s`: batches usually quicker than this run in the event loop. More come and go by `add` and `drop`.
        """
        self.workers = workers
        self._sessions: Mapping[tuple[str, str], Runner] = dict(sessions)
        if inline_s is None:
            inline_s = INLINE_ALONE_S if workers == 1 else INLINE_S
        self._inline_s = inline_s
        self._usual_s: dict[_Kind, float] = {}
        self._changing = threading.Lock()
        """Whoever changes the sessions replaces them whole, so that readers need no lock."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: set[asyncio.Future[Execution]] = set()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"gearshift-worker-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, sessions: Mapping[tuple[str, str], Runner]) -> None:
        """More sessions, by (model key, variant name). May be called from any thread."""
        with self._changing:
            self._sessions = {**self._sessions, **sessions}

    def drop(self, model: str) -> None:
        """Let go of a model's sessions: their memory is free when the last batch on them has ended."""
        with self._changing:
            self._sessions = {key: session for key, session in self._sessions.items() if key[0] != model}
            self._usual_s = {kind: usual_s for kind, usual_s in self._usual_s.copy().items() if kind[0] != model}

    def holds(self, model: str) -> bool:
        """Whether the model's sessions are here."""
        return any(key[0] == model for key in self._sessions)

    async def run(
        self,
        model: str,
        variant: str,
        inputs: Tensors,
        budget_s: float,
        worker: int = 0,  # noqa: ARG002  # whichever thread is free takes it
    ) -> Execution:
        """See `VariantBackend.run`. The thread of a remote variant is taken while it waits for the answer."""
        if self._closed:
            raise WorkerLost("the worker pool is closed")
        kind = (model, variant, *_size(inputs))
        if self._usual_s.get(kind, inf) < self._inline_s:
            return self._execute(kind, inputs, budget_s)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Execution] = loop.create_future()
        self._pending.add(future)
        try:
            self._jobs.put(_Job(kind, inputs, budget_s, future, loop, contextvars.copy_context()))
            return await future
        finally:
            self._pending.discard(future)

    async def close(self) -> None:
        """See `VariantBackend.close`. A thread in the middle of a batch ends with it."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for future in tuple(self._pending):
            if not future.done():
                future.set_exception(WorkerLost("the worker pool was closed"))
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)  # a daemon thread stuck in a model must not hold up the exit

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled() or self._closed:
                continue
            result: Execution | Exception
            try:
                result = job.context.run(self._execute, job.kind, job.inputs, job.budget_s)
            except ExecutionError as error:
                result = error
            except Exception as error:  # noqa: BLE001 - a worker must outlive any batch
                result = WorkerLost(f"{type(error).__name__} in a worker")
            try:
                job.loop.call_soon_threadsafe(_settle, job.future, result)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _execute(self, kind: _Kind, inputs: Tensors, budget_s: float) -> Execution:
        """Run one batch here and now. Raises `ModelFailed`, `VariantUnavailable` or `WorkerLost`."""
        model, variant, *_ = kind
        runner = self._sessions.get((model, variant))
        if runner is None:
            raise WorkerLost(f"{model} {variant} is not loaded")
        started_s, cpu_before_s = time.perf_counter(), time.thread_time()
        try:
            outputs = runner.run(inputs, budget_s)
        except ModelRunError as error:
            raise ModelFailed(str(error)) from error
        except VariantLost as error:
            raise VariantUnavailable(str(error)) from error
        took_s, cpu_s = time.perf_counter() - started_s, time.thread_time() - cpu_before_s
        if runner.waits:  # not a thing to do in the loop, however quick it has been
            return Execution(outputs, took_s, took_s)
        # A busy loop gives the interpreter lock back only every few milliseconds, which a batch of 0.1 ms must
        # not be blamed for: beyond twice the processor time, waiting is not the batch's.
        service_s = min(took_s, 2 * cpu_s) if cpu_s > 0 else took_s
        self._usual_s[kind] = 0.9 * self._usual_s.get(kind, service_s) + 0.1 * service_s
        return Execution(outputs, took_s, service_s)


def _size(inputs: Tensors) -> tuple[int, int]:
    """Rows, and the class of what a row holds. Free axes have any length: to tell each apart would have no bounds."""
    first = next(iter(inputs.values()))
    rows = len(first) if first.ndim else 1
    return rows, (first.size // max(rows, 1)).bit_length()


def _settle(future: asyncio.Future[Execution], result: Execution | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Execution):
        future.set_result(result)
    else:
        future.set_exception(result)
