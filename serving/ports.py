"""The gateway's one port to where models run, and what crosses it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

Tensor = npt.NDArray[Any]
Tensors = Mapping[str, Tensor]

Clock = Callable[[], float]
"""Monotonic seconds. Passed in, so that tests own the time."""


class ExecutionError(Exception):
    """A batch has no result. See its three kinds."""


class ModelFailed(ExecutionError):
    """The model refused or failed on the batch's content: another try with the same content fails too."""


class VariantUnavailable(ExecutionError):
    """What stands behind a remote variant does not answer as it must: the batch may be run on another variant."""


class WorkerLost(ExecutionError):
    """The worker died, hung or cannot be reached: nothing is known about the batch's content."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One finished batch."""

    outputs: Tensors
    compute_s: float
    """Seconds from the start of the model to its result."""
    service_s: float
    """The part of it that grows with the batch and with a busy host: what predictions are learnt from.
    The rest is waiting that any batch would have met, as for a lock that another thread held."""


class VariantBackend(Protocol):
    """Where batches run. Every variant of a served model is resident on every worker.

    Implementations pass the shared suite in tests/contract.
    """

    @property
    def workers(self) -> int:
        """Places that run one batch at a time."""
        ...

    @property
    def depth(self) -> int:
        """Batches worth having in flight a worker: 1, or more where the way there takes time."""
        ...

    @property
    def batch_overhead_s(self) -> float:
        """Processor seconds a batch costs on its way, besides the model: what larger batches save."""
        ...

    async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
        """Run one batch of `model` ("name/version") on a variant.

        `worker`, 0 to `workers` - 1, is the one it was booked on; a backend that sees which is free may use another.
        `budget_s` is the time left to the most patient deadline in the batch: past it, nobody needs the
        result. Raises `ModelFailed`, `VariantUnavailable`, or `WorkerLost` also when the result takes far
        longer than that. Cancelling the call gives up on the result.
        """
        ...

    async def close(self) -> None:
        """Release everything. Batches still in flight end with `WorkerLost`."""
        ...
