"""Fakes for tests of whoever builds on the ports: time that stands still, and workers that do what they are told."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from serving.ports import Execution, ExecutionError, Tensors, WorkerLost

Outputs = Callable[[str, Tensors], Tensors]
"""From a variant's name and a batch's inputs to its outputs. Raises `ExecutionError` for inputs it refuses."""


class ManualClock:
    """A clock that moves only when told."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """The time, seconds."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass; `ValueError` when it should run backwards."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds}")
        self.now_s += seconds


def echo(variant: str, inputs: Tensors) -> Tensors:  # noqa: ARG001 - the signature of `Outputs`
    """The inputs themselves: an input that names its caller shows at once whose rows an answer holds."""
    return dict(inputs)


@dataclass(eq=False)
class FakeBatch:
    """One call of `FakeBackend.run`."""

    model: str
    variant: str
    inputs: Tensors
    budget_s: float
    worker: int
    context: Context
    """The context variables the call was made with."""
    _ended: asyncio.Future[float | None] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether it has a result, failed or was given up."""
        return self._ended.done()

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up on the result."""
        return self._ended.cancelled()

    def finish(self, compute_s: float | None = None) -> None:
        """Let the batch end; `compute_s` replaces the backend's own duration."""
        self._ended.set_result(compute_s)

    def fail(self, error: ExecutionError) -> None:
        """Let the batch end with this."""
        self._ended.set_exception(error)


class FakeBackend:
    """A `VariantBackend` without models or threads.

    A batch ends at once, or with `hold` when the test says so: `await backend.started()` is the next one that
    began. Time passes on the clock by `seconds(variant, rows)` for each batch that ends by itself.
    """

    def __init__(
        self,
        workers: int = 1,
        depth: int = 1,
        *,
        clock: ManualClock | None = None,
        seconds: Callable[[str, int], float] = lambda _variant, _rows: 0.001,
        outputs: Outputs = echo,
        hold: bool = False,
        batch_overhead_s: float = 0.0,
    ) -> None:
        self.workers = workers
        self.depth = depth
        self.batch_overhead_s = batch_overhead_s
        self.hold = hold
        self.batches: list[FakeBatch] = []
        """Every batch that was asked for, also those that failed."""
        self.running = 0
        self.most_running = 0
        self._clock = clock
        self._seconds = seconds
        self._outputs = outputs
        self._failures: deque[ExecutionError] = deque()
        self._begun: asyncio.Queue[FakeBatch] = asyncio.Queue()
        self._closed = False

    def fail_next(self, *errors: ExecutionError) -> None:
        """The next batches end with these, one each."""
        self._failures.extend(errors)

    async def started(self) -> FakeBatch:
        """The next batch that began, in order; waits for it."""
        return await self._begun.get()

    async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
        """See `VariantBackend.run`."""
        if self._closed:
            raise WorkerLost("the backend is closed")
        ended: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        batch = FakeBatch(model, variant, inputs, budget_s, worker, copy_context(), ended)
        self.batches.append(batch)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        if self._failures:
            batch.fail(self._failures.popleft())
        elif not self.hold:
            batch.finish()
        self._begun.put_nowait(batch)
        try:
            told_s = await ended
            outputs = self._outputs(variant, inputs)
        finally:
            self.running -= 1
        compute_s = self._seconds(variant, _rows(inputs)) if told_s is None else told_s
        if self._clock is not None and told_s is None:
            self._clock.advance(compute_s)
        return Execution(outputs, compute_s, compute_s)

    async def close(self) -> None:
        """See `VariantBackend.close`."""
        self._closed = True
        for batch in self.batches:
            if not batch.ended:
                batch.fail(WorkerLost("the backend was closed"))


def _rows(inputs: Tensors) -> int:
    return max((len(array) for array in inputs.values() if array.ndim), default=1)
