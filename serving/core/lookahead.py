"""The look-ahead policy: accuracy gained now, plus the value of the capacity that is left.

For each candidate (variant, batch): the accuracy it is expected to deliver in time, plus what the rows left
behind and those expected within the horizon can still get out of the remaining worker time (the hull of
`serving.core.hull`). The best candidate is taken that lets the fallback plan keep every promise it could
keep anyway: that screen is what holds attainment near 1 close to capacity, where greedy policies spend the
head's slack on a large variant while the queue behind it grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.hull import CapacityValue
from serving.core.latency import LatencyModel
from serving.core.plan import TOLERANCE_S, FallbackPlan, joins
from serving.core.request import Request
from serving.core.scheduler import Decision, Dispatch, Expire, Wait

HULL_STALE = 0.1
"""The hull is rebuilt when the horizon over the slowdown moved by more than this share."""


@dataclass(frozen=True, slots=True)
class LookAheadSettings:
    """The policy's parameters."""

    utilization: float = 0.8
    """Share of future worker time counted on; the rest absorbs bursts. 0..1."""
    min_success: float = 0.3
    """A head whose best chance is below this is expired: trying would only make others late. 0..1."""
    plan_quantile: float = 0.9
    """Share of batches that must be as fast as the screen assumes. 0..1."""
    energy_weight: float = 0.0
    """Accuracy worth giving up to save one millijoule a row."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    variant: int
    members: Sequence[Request]
    rows: int
    expected_s: float
    score: float


class LookAhead:
    """Chooses variant and batch by expected accuracy now and the value of capacity left."""

    def __init__(
        self,
        variants: tuple[VariantView, ...],
        latency: LatencyModel,
        settings: LookAheadSettings | None = None,
    ) -> None:
        self._variants = variants
        self._latency = latency
        self._settings = settings or LookAheadSettings()
        self._plan = FallbackPlan(latency, [v.knee_rows for v in variants])
        self._value = CapacityValue(())
        self._value_for_s = 0.0

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """See `Policy.decide`."""
        if not queue:
            return Wait()
        start_s = max(now_s, min(fleet.free_at_s))
        hopeless = self._hopeless(queue, start_s, fleet)
        if hopeless:
            return Expire(hopeless)
        # With two batches in flight a worker, one that holds both may still be free before the one that holds a
        # single long batch. The plan counts on the former: what is next waits the moment until it opens.
        if not fleet.idle or fleet.free_at_s[0] > start_s:
            return Wait(self._last_chance_s(queue.head, fleet))
        candidates = self._candidates(queue, start_s, now_s, fleet)
        choice = self._best_allowed(candidates, queue, start_s, now_s, fleet)
        return Dispatch(choice.variant, tuple(choice.members), choice.rows, choice.expected_s)

    def _hopeless(self, queue: EdfQueue, start_s: float, fleet: FleetSnapshot) -> tuple[Request, ...]:
        """The requests at the head that even their fastest variant, started next, would probably miss."""
        count = 0
        for request in queue:
            slack_s = request.deadline_s - fleet.overhead_s - start_s
            expected_s = self._latency.mean_s(request.eligibility.variants[0], request.rows)
            if self._latency.met_probability(expected_s, slack_s) >= self._settings.min_success:
                break
            count += 1
        return tuple(queue.requests[:count])

    def _last_chance_s(self, head: Request, fleet: FleetSnapshot) -> float:
        """When the head, still waiting, becomes hopeless."""
        expected_s = self._latency.mean_s(head.eligibility.variants[0], head.rows)
        needed_s = expected_s * self._latency.quantile_ratio(self._settings.min_success)
        return head.deadline_s - fleet.overhead_s - needed_s

    def _candidates(self, queue: EdfQueue, start_s: float, now_s: float, fleet: FleetSnapshot) -> list[_Candidate]:
        """Every eligible variant with batches from the most rows it can use down to one request."""
        found = []
        for variant in self._variants:
            members = self._members(queue, variant)
            sizes = list(accumulate(request.rows for request in members))
            for count in _counts(len(members), fleet.idle):
                rows = sizes[count - 1]
                expected_s = self._latency.mean_s(variant.index, rows)
                chosen = members[:count]
                score = self._gain(variant, chosen, expected_s, start_s, fleet)
                score += self._later(queue.rows - rows, expected_s, now_s, fleet)
                score -= self._settings.energy_weight * variant.energy_mj_per_row * rows
                found.append(_Candidate(variant.index, chosen, rows, expected_s, score))
        return found

    @staticmethod
    def _members(queue: EdfQueue, variant: VariantView) -> Sequence[Request]:
        """The first requests in deadline order that may form a batch on this variant, up to its knee."""
        if queue.alike:
            eligible = variant.index in queue.head.eligibility.variants
            return queue.requests[: variant.knee_rows] if eligible else ()
        members: list[Request] = []
        rows = 0
        for request in queue:
            if members:
                if rows + request.rows > variant.knee_rows:
                    break
                if not (variant.index in request.eligibility.variants and joins(request, members[0], variant.index)):
                    continue
            elif variant.index not in request.eligibility.variants:
                continue
            members.append(request)
            rows += request.rows
            if rows >= variant.knee_rows:
                break
        return members

    def _gain(
        self,
        variant: VariantView,
        members: Sequence[Request],
        expected_s: float,
        start_s: float,
        fleet: FleetSnapshot,
    ) -> float:
        """Accuracy expected in time from this batch, summed over its rows."""
        gain = 0.0
        certain = False  # members stand in deadline order: once one is certain, so are the rest
        for request in members:
            probability = 1.0
            if not certain:
                slack_s = request.deadline_s - fleet.overhead_s - start_s
                probability = self._latency.met_probability(expected_s, slack_s)
                certain = probability == 1.0
            gain += probability * request.rows
        return gain * variant.accuracy

    def _later(self, rows_behind: int, expected_s: float, now_s: float, fleet: FleetSnapshot) -> float:
        """Most accuracy that the rows behind and those to come can get from the worker time that remains."""
        horizon_s = fleet.horizon_s
        open_s = sum(max(0.0, horizon_s - max(0.0, at_s - now_s)) for at_s in fleet.free_at_s)
        rows = rows_behind + fleet.arrival_rate * horizon_s
        capacity_s = self._settings.utilization * (open_s - expected_s)
        return self._hull(horizon_s).of(rows, capacity_s / self._latency.slowdown)

    def _hull(self, horizon_s: float) -> CapacityValue:
        """The hull at table prices: `_later` divides capacity by the slowdown instead of raising every price."""
        within_s = horizon_s / self._latency.slowdown
        if abs(within_s - self._value_for_s) > HULL_STALE * self._value_for_s:
            self._value = CapacityValue((v.table.least_seconds_per_row(within_s), v.accuracy) for v in self._variants)
            self._value_for_s = within_s
        return self._value

    def _best_allowed(
        self,
        candidates: list[_Candidate],
        queue: EdfQueue,
        start_s: float,
        now_s: float,
        fleet: FleetSnapshot,
    ) -> _Candidate:
        """The candidate of highest score after which the plan misses nothing that it would not miss anyway."""
        ratio = self._latency.quantile_ratio(self._settings.plan_quantile)
        others_free_s = fleet.free_at_s[1:]
        unavoidable: int | None = None
        failed: list[_Candidate] = []
        fallback = self._planned(queue, start_s, ratio, fleet)
        share = -(-queue.rows // max(1, fleet.idle))
        for candidate in sorted(candidates, key=lambda c: _rank(c, share, fleet.batch_overhead_s)):
            if any(c.expected_s <= candidate.expected_s and c.rows >= candidate.rows for c in failed):
                continue  # takes longer and serves no more than one that failed: fails too
            done_s = start_s + candidate.expected_s * ratio
            missed = _late(candidate.members, done_s + fleet.overhead_s)
            behind = _without(queue.requests, candidate.members)
            if behind:
                missed += self._misses(behind, now_s, (done_s, *others_free_s), ratio, fleet, queue)
            if missed and unavoidable is None:
                unavoidable = self._misses(queue.requests, now_s, fleet.free_at_s, ratio, fleet, queue)
            if missed <= (unavoidable or 0):
                return candidate
            failed.append(candidate)
        return fallback

    def _misses(
        self,
        requests: Sequence[Request],
        now_s: float,
        free_at_s: Sequence[float],
        ratio: float,
        fleet: FleetSnapshot,
        queue: EdfQueue,
    ) -> int:
        return self._plan.misses(
            requests, now_s, free_at_s, ratio=ratio, overhead_s=fleet.overhead_s, alike=queue.alike
        ).count

    def _planned(self, queue: EdfQueue, start_s: float, ratio: float, fleet: FleetSnapshot) -> _Candidate:
        """The fallback plan's own next batch."""
        count, _ = self._plan.first_batch(queue.requests, 0, start_s, ratio, fleet.overhead_s)
        members = queue.requests[:count]
        variant = members[0].eligibility.variants[0]
        rows = sum(request.rows for request in members)
        return _Candidate(variant, members, rows, self._latency.mean_s(variant, rows), -inf)


def _counts(most: int, idle: int) -> list[int]:
    """Batch sizes worth a look: all, an even share for each idle worker, and halves down to one request."""
    counts = {most, -(-most // max(1, idle))} if most else set()
    half = most // 2
    while half:
        counts.add(half)
        half //= 2
    return sorted(counts, reverse=True)


def _rank(candidate: _Candidate, share: int, batch_overhead_s: float) -> tuple[float, bool, float]:
    """Order of preference. The score decides; with capacity to spare many batches score alike, and then a batch
    is not larger than its fair share of the queue over the idle workers, and as cheap a row as that allows."""
    cost_s = (candidate.expected_s + batch_overhead_s) / candidate.rows
    return -round(candidate.score, 9), candidate.rows > share, cost_s


def _late(members: Sequence[Request], answered_s: float) -> int:
    """How many members, which stand in deadline order, an answer at that time would be too late for."""
    for count, request in enumerate(members):
        if answered_s <= request.deadline_s + TOLERANCE_S:
            return count
    return len(members)


def _without(requests: Sequence[Request], members: Sequence[Request]) -> Sequence[Request]:
    """The requests that stay behind when `members` go."""
    count = len(members)
    if members[0] is requests[0] and members[-1] is requests[count - 1]:
        return requests[count:]
    gone = set(map(id, members))
    return [request for request in requests if id(request) not in gone]
