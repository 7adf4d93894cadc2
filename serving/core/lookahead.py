"""The look-ahead policy: accuracy gained now, plus the value of the capacity that is left.

For each candidate (variant, batch): the accuracy it is expected to deliver in time, plus what the rows left
behind and those expected within the horizon can still get out of the remaining worker time (the hull of
`serving.core.hull`). The best candidate is taken that lets the fallback plan keep every promise it could
keep anyway: that screen is what holds attainment near 1 close to capacity, where greedy policies spend the
head's slack on a large variant while the queue behind it grows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import accumulate

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.head import WINDOW, Head
from serving.core.hull import CapacityValue
from serving.core.latency import LatencyModel
from serving.core.plan import NO_MISSES, TOLERANCE_S, Backlog, FallbackPlan
from serving.core.request import Request
from serving.core.scheduler import Decision, Dispatch, Expire, Wait

HULL_STALE = 0.1
"""The hull is rebuilt when the horizon over the slowdown moved by more than this share, or what a batch takes besides
its rows."""
LEAST_OVERHEAD_S = 1e-5
"""What a batch takes besides its rows is no less to that rule: noise around nothing is no news."""
FILLING = 0.125
"""Share of the horizon that a batch may take to fill."""
CALM_PRICE, BUSY_PRICE = 0.8, 0.95
"""What a batch's own time counts while it keeps nobody waiting, and while it does. The outlook prices what is left at
batches that fill, and takes for granted that somebody will use it. A batch at hand is never quite as cheap: at full
price the cheapest variant would always look a little better, and the time it saves would never be spent. What this
spends too much, the screen sees."""
MOST_SCREENED = 6
"""Candidates that are checked against the plan before its own next batch is taken."""
SHORT_QUEUE = 6
"""So few requests are planned faster than they are checked as a fluid."""


@dataclass(frozen=True, slots=True)
class LookAheadSettings:
    """The policy's parameters."""

    utilization: float = 0.97
    """Share of future worker time counted on; the rest absorbs bursts. 0..1."""
    min_success: float = 0.3
    """A head whose best chance is below this is expired: trying would only make others late. 0..1."""
    plan_quantile: float = 0.9
    """Share of batches that must be as fast as the screen assumes. 0..1."""
    energy_weight: float = 0.0
    """Accuracy worth giving up to save one millijoule a row."""


@dataclass(slots=True)
class _Candidate:
    variant: VariantView
    members: Sequence[Request]
    sizes: Sequence[int]
    """Rows of the first member, of the first two, ..."""
    count: int
    """Members that would go."""
    expected_s: float
    certain: bool
    """Whether every member would be in time even in the worst case known."""

    @property
    def rows(self) -> int:
        return self.sizes[self.count - 1]

    def sends_what(self, other: "_Candidate") -> bool:
        """Whether it is the same batch on the same variant."""
        return (
            self.variant is other.variant
            and self.count == other.count
            and self.members[self.count - 1] is other.members[self.count - 1]
        )


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
        self._most_rows = max(v.knee_rows for v in variants)
        self._values: dict[int, CapacityValue] = {}
        self._value_for_s = 0.0
        self._value_with_s = 0.0
        self._value_without = latency.suspended
        self._value_at = latency.revision

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
        choice = self._choose(queue, start_s, now_s, fleet)
        return Dispatch(choice.variant.index, tuple(choice.members[: choice.count]), choice.rows, choice.expected_s)

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

    def _choose(self, queue: EdfQueue, start_s: float, now_s: float, fleet: FleetSnapshot) -> _Candidate:
        """The candidate of highest score that the plan allows; where there is none, the plan's own next batch.

        Each variant is tried with as many rows as it can use and with an even share for each idle worker. Smaller
        batches of a variant are looked at when that is not allowed, or not certain to be in time.
        """
        outlook = self._outlook(queue, now_s, fleet)
        slack_s = -fleet.overhead_s - start_s
        share = -(-len(queue) // max(1, fleet.idle))
        share_rows = -(-queue.rows // max(1, fleet.idle))

        def rated(variant: VariantView, members: Sequence[Request], sizes: Sequence[int], count: int) -> _Ranked:
            rows = sizes[count - 1]
            expected_s = self._latency.mean_s(variant.index, rows)
            gain, certain = self._gain(members, count, rows, expected_s, slack_s)
            calm = len(queue) - count < max(1, fleet.idle)
            spent_s = expected_s + fleet.batch_overhead_s
            score = gain * variant.accuracy + outlook.value(rows, spent_s * (CALM_PRICE if calm else BUSY_PRICE))
            score -= self._settings.energy_weight * variant.energy_mj_per_row * rows
            candidate = _Candidate(variant, members, sizes, count, expected_s, certain)
            # The score decides. With capacity to spare many batches score alike: then a batch is not larger than
            # its fair share of the queue over the idle workers. Between two variants that the best mix consists of
            # all is alike too: while nobody is kept waiting by it the accurate one goes, else the cheap one, and
            # that is what mixes them.
            worth = variant.accuracy if calm else 0.0
            return -round(score, 9), rows > share_rows, -worth, spent_s / rows, variant.index, count, candidate

        ranked = []
        head = Head(queue, self._most_rows)
        for variant in self._variants:
            members, sizes = head.batch(variant)
            if members:
                ranked += [rated(variant, members, sizes, n) for n in {len(members), min(share, len(members))}]
        ranked += [
            rated(c.variant, c.members, c.sizes, count)
            for *_, c in ranked
            if not c.certain
            for count in _halves(c.count)
        ]
        heapify(ranked)
        ratio = self._latency.quantile_ratio(self._settings.plan_quantile)
        screen = _Screen(self._plan, self._latency, ratio, queue, now_s, fleet)
        planned = self._planned(queue, start_s, ratio, fleet)
        failed: list[_Candidate] = []
        while ranked and screen.looks < MOST_SCREENED:
            candidate = heappop(ranked)[-1]
            if candidate.sends_what(planned):
                return candidate  # who follows the plan breaks none of its promises
            if any(c.expected_s <= candidate.expected_s and c.rows >= candidate.rows for c in failed):
                continue  # takes longer and serves no more than one that failed: fails too
            if screen.allows(candidate, start_s):
                return candidate
            failed.append(candidate)
            if candidate.certain and candidate.count > 1:
                half = rated(candidate.variant, candidate.members, candidate.sizes, candidate.count // 2)
                heappush(ranked, half)
        return planned

    def _gain(
        self, members: Sequence[Request], count: int, rows: int, expected_s: float, slack_s: float
    ) -> tuple[float, bool]:
        """Rows expected to be answered in time, and whether all are certain to be.

        `slack_s` plus a deadline is the time until it. Members stand in deadline order: once one is certain,
        so are those behind it.
        """
        gain, before = 0.0, 0
        for request in members[:count]:
            probability = self._latency.met_probability(expected_s, request.deadline_s + slack_s)
            if probability == 1.0:
                return gain + rows - before, before == 0
            gain += probability * request.rows
            before += request.rows
        return gain, False

    def _outlook(self, queue: EdfQueue, now_s: float, fleet: FleetSnapshot) -> "_Outlook":
        """What the rows that stay behind and those to come can still get out of the workers' time."""
        horizon_s = fleet.horizon_s
        end_s = now_s + horizon_s
        open_s = sum(end_s - max(now_s, at_s) for at_s in fleet.free_at_s if at_s < end_s)
        expected = fleet.arrival_rate * horizon_s
        return _Outlook(
            self._hull(
                horizon_s, int((queue.rows + expected * FILLING) / len(fleet.free_at_s)), fleet.batch_overhead_s
            ),
            queue.rows + expected,
            open_s,
            self._settings.utilization * fleet.share,
            self._latency.slowdown,
        )

    def _hull(self, horizon_s: float, rows_a_worker: int, overhead_s: float) -> CapacityValue:
        """The hull at table prices: the outlook divides capacity by the slowdown instead of raising every price.

        What a row costs depends on the batches there is something to fill with: the rows that wait for each worker
        and those that come in `FILLING` of the horizon. At the price of full batches the few rows of a slow stream
        would be given more than there is time for. What each batch takes besides its rows is in the price too: without
        it single rows looked as cheap as full batches, and a gateway late with everything sent ever more of them.
        """
        within_s, batch_s = horizon_s / self._latency.slowdown, overhead_s / self._latency.slowdown
        suspended = self._latency.suspended
        if (
            suspended is not self._value_without
            or self._latency.revision != self._value_at
            or abs(within_s - self._value_for_s) > HULL_STALE * self._value_for_s
            or abs(batch_s - self._value_with_s) > HULL_STALE * max(self._value_with_s, LEAST_OVERHEAD_S)
        ):
            self._values.clear()
            self._value_for_s, self._value_with_s = within_s, batch_s
            self._value_without, self._value_at = suspended, self._latency.revision
        level = rows_a_worker.bit_length()
        value = self._values.get(level)
        if value is None:
            most = 1 << max(0, level - 1)
            value = CapacityValue(
                (
                    v.table.least_seconds_per_row(within_s, min(most, v.knee_rows), batch_s)
                    * self._latency.relative(v.index),
                    v.accuracy,
                )
                for v in self._variants
                if v.index not in self._latency.suspended
            )
            self._values[level] = value
        return value

    def _planned(self, queue: EdfQueue, start_s: float, ratio: float, fleet: FleetSnapshot) -> _Candidate:
        """The fallback plan's own next batch."""
        count, _ = self._plan.first_batch(queue.requests, 0, start_s, ratio, fleet.overhead_s, queue.alike)
        members = queue.requests[:count]
        variant = self._variants[members[0].eligibility.variants[0]]
        sizes = range(1, count + 1) if queue.alike else list(accumulate(request.rows for request in members))
        expected_s = self._latency.mean_s(variant.index, sizes[-1])
        return _Candidate(variant, members, sizes, count, expected_s, certain=False)


_Ranked = tuple[float, bool, float, float, int, int, _Candidate]
"""A candidate and its place in the order of preference; variant and count only break ties."""


@dataclass(slots=True)
class _Outlook:
    """The value of the capacity that a decision leaves."""

    hull: CapacityValue
    rows: float
    """Rows queued and expected within the horizon."""
    open_s: float
    """Worker time until the horizon's end."""
    share: float
    """Part of the worker time that is counted on."""
    slowdown: float

    def value(self, taken: int, expected_s: float) -> float:
        """Most accuracy that the other rows can get when `taken` rows keep a worker busy for `expected_s`."""
        return self.hull.of(self.rows - taken, (self.open_s * self.share - expected_s) / self.slowdown)


class _Screen:
    """Allows a choice if, after it, the plan misses nothing that it would not miss anyway."""

    def __init__(
        self,
        plan: FallbackPlan,
        latency: LatencyModel,
        ratio: float,
        queue: EdfQueue,
        now_s: float,
        fleet: FleetSnapshot,
    ) -> None:
        self._plan = plan
        self._latency = latency
        self._ratio = ratio
        self._queue = queue
        self._now_s = now_s
        self._fleet = fleet
        self._backlog = plan.backlog(queue)
        self._unavoidable: int | None = None
        self.looks = 0
        """Candidates looked at in detail."""

    def allows(self, candidate: _Candidate, start_s: float) -> bool:
        """Whether this batch, started at `start_s`, breaks no promise that could be kept."""
        done_s = start_s + candidate.expected_s * self._ratio
        members = candidate.members[: candidate.count]
        missed = _late(members, done_s + self._fleet.overhead_s)
        behind, backlog = self._without(members)
        free_s = done_s + self._fleet.batch_overhead_s
        if behind:
            # Cut to the last moment, the smallest error or a more hurried newcomer would break a promise: there must
            # be time for one request more, the smallest thing there is to spare.
            free_s += self._latency.mean_s(behind[0].eligibility.variants[0], behind[0].rows)
        free_at_s = (free_s, *(max(self._now_s, at_s) for at_s in self._fleet.free_at_s[1:]))
        if not missed and len(behind) > SHORT_QUEUE:
            roughly = self._plan.fluid(
                behind,
                backlog,
                free_at_s,
                ratio=self._ratio,
                overhead_s=self._fleet.overhead_s,
                hand_over_s=self._fleet.batch_overhead_s,
            )
            if roughly is NO_MISSES:
                return True
        self.looks += 1
        if behind:
            missed += self._misses(behind, backlog, free_at_s)
        if missed and self._unavoidable is None:
            self._unavoidable = self._misses(self._queue.requests, self._backlog, self._fleet.free_at_s)
        return missed <= (self._unavoidable or 0)

    def _misses(self, requests: Sequence[Request], backlog: Backlog, free_at_s: Sequence[float]) -> int:
        return self._plan.misses(
            requests,
            self._now_s,
            free_at_s,
            ratio=self._ratio,
            overhead_s=self._fleet.overhead_s,
            hand_over_s=self._fleet.batch_overhead_s,
            alike=self._queue.alike,
            backlog=backlog,
        ).count

    def _without(self, members: Sequence[Request]) -> tuple[Sequence[Request], Backlog]:
        """The requests that stay behind when `members` go."""
        requests, works_s, count = self._queue.requests, self._backlog.works_s, len(members)
        if members[-1] is requests[count - 1]:
            return requests[count:], Backlog(works_s[count:], self._backlog.longest_s)
        gone = set(members)
        behind, works_left_s = list(requests), list(works_s)
        for at in reversed([at for at, request in enumerate(requests[:WINDOW]) if request in gone]):
            del behind[at], works_left_s[at]
        return behind, Backlog(works_left_s, self._backlog.longest_s)


def _halves(count: int) -> Iterator[int]:
    """Half of `count`, a quarter, ... down to 1."""
    while count := count // 2:
        yield count


def _late(members: Sequence[Request], answered_s: float) -> int:
    """How many members, which stand in deadline order, an answer at that time would be too late for."""
    for count, request in enumerate(members):
        if answered_s <= request.deadline_s + TOLERANCE_S:
            return count
    return len(members)
