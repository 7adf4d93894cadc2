"""One scheduling problem with nothing unknown: all arrivals, all durations, when workers come and must be handed over.

Requests are alike: equal rows, budget and variants, each served first come, first served. Then a best schedule takes
them in that order: of two batches that start one after the other, members that arrived out of order can change places,
for the earlier start is still after the earlier arrival and the earlier deadline is met by the earlier end, or both
deadlines are met by the later. What is lost by calling requests alike is only variety: mixed loads cannot be asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray

from loadtests.durations import Sampler
from loadtests.simulation.served import Served
from loadtests.workload import Call
from serving.core.budget import eligible_variants
from serving.core.policies.batching import largest_batch

TOLERANCE_S = 1e-9
"""The hair of tolerance that simulator and core have: sums of floats."""


class NotAlikeError(ValueError):
    """The requests differ in more than their arrival: this yardstick does not cover them."""


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """Requests in the order of their arrival, and the workers that serve them."""

    at_s: NDArray[np.float64]
    """Arrivals, never falling."""
    budget_s: float
    rows: int
    """Of each request."""
    accuracies: tuple[float, ...]
    """Of all variants of the family, in its order."""
    seconds: NDArray[np.float64]
    """`seconds[v, k, m]`: time of a batch of m + 1 requests on variant v that starts as the (k + 1)-th busy worker;
    infinite for a variant that may not answer."""
    free_s: tuple[float, ...]
    """When each worker takes its first batch; until then it is busy with something else."""
    handover_s: tuple[float, ...] | None = None
    """When the workers must be free again, earliest first; None: whenever the deadlines allow."""

    @property
    def workers(self) -> int:
        """Batches that run at the same time."""
        return len(self.free_s)

    @property
    def most(self) -> int:
        """Requests of the largest batch."""
        return int(self.seconds.shape[2])

    @property
    def due_s(self) -> NDArray[np.float64]:
        """Deadlines."""
        return self.at_s + self.budget_s

    def part(self, begin: int, end: int, free_s: Sequence[float]) -> "Instance":
        """The requests from `begin` up to `end`, on workers that are free at these times."""
        return replace(self, at_s=self.at_s[begin:end], free_s=tuple(free_s), handover_s=None)

    def hands_over(self, free_s: Sequence[float]) -> bool:
        """Whether workers that are free at these times are free as early as wanted."""
        if self.handover_s is None:
            return True
        pairs = zip(sorted(free_s), self.handover_s, strict=True)
        return all(mine <= wanted + TOLERANCE_S for mine, wanted in pairs)


def instance_of(calls: Sequence[Call], served: Served, workers: int) -> Instance:
    """The calls, of one class and at least one, on idle workers with the medians that a simulation without noise takes.

    Raises `NotAlikeError`, and `Infeasible` where no variant can meet the budget.
    """
    first = calls[0]
    if any(call.rows != first.rows or call.budget != first.budget for call in calls):
        raise NotAlikeError("requests differ in rows or budget: the clairvoyant schedule takes loads of one class")
    allowed = eligible_variants(first.budget, first.rows, served.variants, served.name).variants
    sampler = Sampler(served.durations, [view.name for view in served.variants], workers, seed=0, noise=False)
    most = max(1, *(largest_batch(served.variants[index]) // first.rows for index in allowed))
    seconds = np.full((len(served.variants), workers, most), np.inf)
    for variant in allowed:
        for busy, size in product(range(workers), range(most)):
            seconds[variant, busy, size] = sampler.draw(variant, (size + 1) * first.rows, busy + 1)
    return Instance(
        at_s=np.array([call.at_s for call in calls]),
        budget_s=first.budget.latency_s,
        rows=first.rows,
        accuracies=tuple(view.accuracy for view in served.variants),
        seconds=seconds,
        free_s=(first.at_s,) * workers,
    )


def useful_sizes(most: int) -> tuple[int, ...]:
    """Batch sizes worth trying, in requests: all small ones, then four in each doubling, and the largest."""
    geometric = chain.from_iterable((2**power * step // 4 for step in range(4, 8)) for power in range(3, 20))
    return tuple(sorted({*range(1, min(most, 8) + 1), *(size for size in geometric if size <= most), most}))
