"""The fallback plan: would everything be met if, from now on, the cheapest variants answered?

It serves the queue in deadline order, each batch on the cheapest variant its head allows, on whichever
worker is free first. It is what the gateway can always still do, and that makes it the yardstick: a
request is admitted, and a choice is allowed, only if the plan for what is left holds. With exact
predictions the plan, once it holds, stays executable, so what is admitted is met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from serving.core.latency import LatencyModel
from serving.core.request import Request

TOLERANCE_S = 1e-9
"""Forgives the rounding of float sums, so that an exact fit is a fit."""


@dataclass(frozen=True, slots=True)
class Misses:
    """Requests the plan cannot serve in time."""

    count: int
    late_s: float
    """How late the latest of them would be, seconds."""
    last: bool
    """Whether the request with the latest deadline is among them."""


NO_MISSES = Misses(0, 0.0, last=False)


class FallbackPlan:
    """Checks queues of one family against the cheapest schedule."""

    def __init__(self, latency: LatencyModel, knees: Sequence[int]) -> None:
        """`knees[v]` is the largest batch of variant v, rows."""
        self._latency = latency
        self._knees = tuple(knees)

    def first_batch(
        self,
        requests: Sequence[Request],
        at: int,
        start_s: float,
        ratio: float = 1.0,
        overhead_s: float = 0.0,
        alike: bool = False,
    ) -> tuple[int, float]:
        """How many requests from position `at` the plan puts into its next batch, and the time it takes.

        The batch is as large as the knee, the likeness of its members and the head's deadline allow:
        while the batch would make the head late it is halved, down to the head alone. `alike`: all
        requests have one row and may share batches, so nobody has to be looked at.
        """
        head = requests[at]
        variant = head.eligibility.variants[0]
        knee = self._knees[variant]
        sizes: Sequence[int]
        sizes = range(1, min(knee, len(requests) - at) + 1) if alike else _sizes(requests, at, variant, knee)
        count = len(sizes)
        latest_s = head.deadline_s - overhead_s + TOLERANCE_S
        took_s = self._latency.mean_s(variant, sizes[-1]) * ratio
        while count > 1 and start_s + took_s > latest_s:
            count //= 2
            took_s = self._latency.mean_s(variant, sizes[count - 1]) * ratio
        return count, took_s

    def misses(
        self,
        requests: Sequence[Request],
        now_s: float,
        free_at_s: Sequence[float],
        *,
        ratio: float = 1.0,
        overhead_s: float = 0.0,
        alike: bool = False,
    ) -> Misses:
        """What the plan would miss. A request that is late even alone is passed over, as it would be expired.

        `free_at_s`: when each worker becomes free. `ratio` stretches every predicted time, to leave
        room for noise; `overhead_s` is spent on each answer after the model; `alike` as for `first_batch`.
        """
        free = [max(now_s, at_s) for at_s in free_at_s]
        heapify(free)
        at, total, missed, late_s, last = 0, len(requests), 0, 0.0, False
        while at < total:
            count, took_s = self.first_batch(requests, at, free[0], ratio, overhead_s, alike)
            done_s = free[0] + took_s
            behind_s = done_s + overhead_s - requests[at].deadline_s
            if behind_s > TOLERANCE_S:
                missed, late_s, last = missed + 1, max(late_s, behind_s), at == total - 1
                at += 1
                continue
            heapreplace(free, done_s)
            at += count
        return Misses(missed, late_s, last) if missed else NO_MISSES


def _sizes(requests: Sequence[Request], at: int, variant: int, knee: int) -> list[int]:
    """Rows of the batches of one, two, ... requests from position `at` that fit under the knee."""
    head = requests[at]
    sizes = [head.rows]
    for request in requests[at + 1 : at + knee]:
        rows = sizes[-1] + request.rows
        if rows > knee or not joins(request, head, variant):
            break
        sizes.append(rows)
    return sizes


def joins(request: Request, head: Request, variant: int) -> bool:
    """Whether a request may ride in a batch of the head's on that variant."""
    if request.eligibility is head.eligibility:
        return request.group == head.group
    return variant in request.eligibility.variants and request.group == head.group
