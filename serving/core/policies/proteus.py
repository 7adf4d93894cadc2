"""Proteus (Ahmad et al., ASPLOS'24): shares of the variants allotted once a period; batches that wait on purpose."""

from collections.abc import Sequence

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.plan import TOLERANCE_S
from serving.core.policies.batching import HeadFirst, dispatch, fitting_rows, largest_batch, slack_of, stand_in
from serving.core.request import Request
from serving.core.scheduler import Decision, Dispatch, Expire, Wait

DEMAND_FACTOR = 1.05
"""Throughput is provisioned for this multiple of the demand seen (the paper's beta)."""
BATCH_SHARE = 0.5
"""Share of the usual budget the largest batch may take: the other half may go by waiting for it to fill."""
FIRST_SHARE = 0.1
"""Until a whole period has passed, shares are allotted each tenth of one: the published runs start warm."""


class Proteus(HeadFirst):
    """Most accuracy subject to throughput for the last period's demand, then batches as late as the head allows.

    The published program places variants on workers, each of which holds one. Here any worker runs any variant, so
    the placement needs no integers, and with one constraint the best mix has at most two variants: it is found by
    trying all pairs. Batches take turns so that rows follow the shares; the published router draws lots.
    """

    def __init__(
        self, variants: tuple[VariantView, ...], latency: LatencyModel, period_s: float, *, early_drop: bool = False
    ) -> None:
        """`period_s`: seconds between two allotments; 30 in the paper."""
        super().__init__(variants, latency, early_drop=early_drop)
        self._period_s = period_s
        self._since_s: float | None = None
        self._next_s = 0.0
        self._rows_left = 0
        self._rows_before = 0
        self._limits = [1] * len(variants)
        self._owed = [0.0] * len(variants)
        self.shares: Sequence[float] = ()
        """Share of the rows that each variant is to answer."""

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """See `Policy.decide`."""
        self._allot_when_due(now_s, queue, fleet)
        decision = super().decide(now_s, queue, fleet)
        if isinstance(decision, Dispatch | Expire):
            self._rows_left += sum(request.rows for request in decision.requests)
        if isinstance(decision, Dispatch):
            self._owe(decision)
        return decision

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        head = queue.head
        variant = self._turn_of(head)
        limit = self._limits[variant]
        slack_s = slack_of(head, now_s, fleet)
        if queue.rows < limit:
            spare_s = slack_s - self._latency.mean_s(variant, queue.rows)
            if spare_s > 2 * TOLERANCE_S:
                return Wait(now_s + spare_s)
        rows = fitting_rows(self._latency, variant, slack_s, min(queue.rows, limit))
        return dispatch(queue, variant, rows, self._latency)

    def _turn_of(self, head: Request) -> int:
        """The variant that is furthest behind its share."""
        ahead = max(range(len(self.shares)), key=lambda v: (self.shares[v] > 0, self._owed[v]))
        return stand_in(head.eligibility, ahead, self._variants)

    def _owe(self, batch: Dispatch) -> None:
        for variant, share in enumerate(self.shares):
            self._owed[variant] += share * batch.rows
        self._owed[batch.variant] -= batch.rows

    def _allot_when_due(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> None:
        """Once a period: the demand is what has left the queue since the last time, and what it has grown by."""
        if self._since_s is None:
            self._since_s, self._next_s = now_s, now_s + FIRST_SHARE * self._period_s
            self._allot(0.0, fleet)
            return
        if now_s < self._next_s or now_s == self._since_s:
            return
        demand = (self._rows_left + queue.rows - self._rows_before) / (now_s - self._since_s)
        self._allot(max(0.0, demand), fleet)
        if now_s - self._since_s >= self._period_s:
            self._since_s, self._rows_left, self._rows_before = now_s, 0, queue.rows
            self._next_s = now_s + self._period_s
        else:
            self._next_s = min(self._next_s + FIRST_SHARE * self._period_s, self._since_s + self._period_s)

    def _allot(self, demand: float, fleet: FleetSnapshot) -> None:
        within_s = BATCH_SHARE * fleet.horizon_s
        points = []
        for variant in self._variants:
            limit = fitting_rows(self._latency, variant.index, within_s, largest_batch(variant))
            self._limits[variant.index] = limit
            points.append((self._latency.mean_s(variant.index, limit) / limit, variant.accuracy))
        spare_s = len(fleet.free_at_s) / (DEMAND_FACTOR * demand) if demand else float("inf")
        self.shares = best_mix(points, spare_s)
        self._owed = [0.0] * len(self._variants)


def best_mix(points: Sequence[tuple[float, float]], price_s: float) -> list[float]:
    """Shares of the points (worker-seconds a row, accuracy) with the most accuracy at a mean price of `price_s`.

    All to the cheapest where even that is dearer.
    """
    shares = [0.0] * len(points)
    affordable = [i for i, (cost_s, _) in enumerate(points) if cost_s <= price_s]
    if not affordable:
        shares[min(range(len(points)), key=lambda i: points[i])] = 1.0
        return shares
    best = max(affordable, key=lambda i: points[i][1])
    worth, mix = points[best][1], (best, best, 0.0)
    for low in affordable:
        for high, (cost_s, accuracy) in enumerate(points):
            if cost_s <= price_s:
                continue
            part = (price_s - points[low][0]) / (cost_s - points[low][0])
            mixed = (1 - part) * points[low][1] + part * accuracy
            if mixed > worth:
                worth, mix = mixed, (low, high, part)
    low, high, part = mix
    shares[low] += 1 - part
    shares[high] += part
    return shares
