"""The fallback plan: would everything be met if, from now on, the cheapest variants answered?

It serves the queue in deadline order, each batch on the cheapest variant its head allows, on whichever
worker is free first. It is what the gateway can always still do, and that makes it the yardstick: a
request is admitted, and a choice is allowed, only if the plan for what is left holds. With exact
predictions the plan, once it holds, stays executable, so what is admitted is met.

The requests that are due first are planned batch by batch. Behind them a long queue is checked as a fluid:
the work up to a deadline, at the price of full batches, must fit into what the workers have until then, less
what whole batches on whole workers may waste of it (Graham, "Bounds on Multiprocessing Timing Anomalies",
1969). That makes the cost of a look at the queue nearly independent of its length. Requests that may share batches do
fill them; where many may not (other models' groups, floors, rows that do not fit together) the price is too low, and
what the fluid allows is a good guess and no promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import sqrt

from serving.core.edf import EdfQueue
from serving.core.latency import LatencyModel
from serving.core.request import Request

PLANNED = 24
"""Requests that are planned batch by batch where the work of the others is known."""
CHECKPOINT = 16
"""Requests of the fluid part that are checked together, by the earliest deadline among them."""
MOST_CHECKPOINTS = 48

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


@dataclass(frozen=True, slots=True)
class Backlog:
    """The work of the requests in a queue, or in a part of it."""

    works_s: Sequence[float]
    """Worker-seconds of each request (`FallbackPlan.work_s`)."""
    longest_s: float
    """Longest full batch of those the plan may form of them, by the table."""

    def merged(self, at: int, other: "Backlog") -> "Backlog":
        """With another backlog put in at position `at`."""
        works_s = [*self.works_s[:at], *other.works_s, *self.works_s[at:]]
        return Backlog(works_s, max(self.longest_s, other.longest_s))


class FallbackPlan:
    """Checks queues of one family against the cheapest schedule."""

    def __init__(self, latency: LatencyModel, knees: Sequence[int]) -> None:
        """`knees[v]` is the largest batch of variant v, rows."""
        self._latency = latency
        self._knees = tuple(knees)
        self._full_s: list[float] = []
        self._price_s: list[float] = []
        self._revision = -1
        self._look_up_prices()
        self._first_for: tuple[object, ...] = ()
        self._first: tuple[list[float], int, float] = [], 0, 0.0
        """Of the queue that is due first, for `late_behind`: when the workers are free behind it, how many requests it
        is, and their work."""

    def work_s(self, request: Request) -> float:
        """Worker-seconds of the request on its cheapest variant in full batches, by the table."""
        self._look_up_prices()
        return request.rows * self._price_s[request.eligibility.variants[0]]

    def backlog_of(self, request: Request) -> Backlog:
        """The backlog of one request."""
        return Backlog([self.work_s(request)], self._full_s[request.eligibility.variants[0]])

    def backlog(self, queue: EdfQueue) -> Backlog:
        """What `misses` needs to know of a queue to look at its far end as a fluid."""
        self._look_up_prices()
        return Backlog(queue.works_s, max((self._full_s[v] for v in queue.fallbacks), default=0.0))

    def _look_up_prices(self) -> None:
        """What full batches take by the tables as they are corrected now. The work of requests that wait already stays
        what it was: it is theirs not for long.
        """
        latency = self._latency
        if self._revision == latency.revision:
            return
        self._revision = latency.revision
        self._full_s = [latency.tables[v].seconds(knee) * latency.crowding(v) for v, knee in enumerate(self._knees)]
        self._price_s = [took_s / knee for took_s, knee in zip(self._full_s, self._knees, strict=True)]

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
        took_s = self._latency.full_s(variant, sizes[-1]) * ratio
        while count > 1 and start_s + took_s > latest_s:
            count //= 2
            took_s = self._latency.full_s(variant, sizes[count - 1]) * ratio
        return count, took_s

    def misses(
        self,
        requests: Sequence[Request],
        now_s: float,
        free_at_s: Sequence[float],
        *,
        ratio: float = 1.0,
        overhead_s: float = 0.0,
        hand_over_s: float = 0.0,
        alike: bool = False,
        backlog: Backlog | None = None,
        door: bool = False,
    ) -> Misses:
        """What the plan would miss. A request that it is late for is passed over, as it would be expired.

        `door`: as admission sees it. Such a request is served all the same, as one would be that has some chance if it
        is next. And batches that follow each other are not all slow: of n the sum strays sqrt(n) times as far as one.

        With a `backlog`, which belongs to these requests, those after the first `PLANNED` are a fluid.

        `free_at_s`: when each worker becomes free. `ratio` stretches every predicted time, to leave
        room for noise; `overhead_s` is spent on each answer after the model, `hand_over_s` by a worker between two
        batches; `alike` as for `first_batch`.
        """
        total = len(requests)
        planned = total if backlog is None or total <= 2 * PLANNED else PLANNED
        free, at, missed, late_s, last = self._by_batches(
            requests, planned, now_s, free_at_s, ratio, overhead_s, hand_over_s, alike, door
        )
        if backlog is not None and at < total:
            behind = self.fluid(
                requests, backlog, free, ratio=ratio, overhead_s=overhead_s, hand_over_s=hand_over_s, at=at, door=door
            )
            missed, late_s, last = missed + behind.count, max(late_s, behind.late_s), behind.last
        return Misses(missed, late_s, last) if missed else NO_MISSES

    def late_behind(
        self,
        queue: EdfQueue,
        newcomer: Request,
        now_s: float,
        free_at_s: Sequence[float],
        *,
        ratio: float = 1.0,
        overhead_s: float = 0.0,
        hand_over_s: float = 0.0,
        alike: bool = False,
    ) -> float:
        """How late, seconds, the plan would be with a newcomer that goes behind a long queue; 0 or less: in time.

        It changes nothing for those before it, so of `misses` (at the door) only the last checkpoint is its own:
        the cost of a look does not depend on the length of the queue. `alike`: the newcomer and all who wait are.
        """
        latency, requests = self._latency, queue.requests
        work_s = queue.work_s + self.work_s(newcomer)
        # All but the newcomer: until a batch starts or ends, or the order changes, who is due first stays planned.
        known = (
            queue, queue.edits, now_s if min(free_at_s) < now_s else 0.0, tuple(free_at_s), ratio, overhead_s,
            hand_over_s, alike, latency.slowdown, latency.revision, latency.suspended,
        )  # fmt: skip
        if known != self._first_for:
            free, at, *_ = self._by_batches(
                requests, PLANNED, now_s, free_at_s, ratio, overhead_s, hand_over_s, alike, door=True
            )
            self._first_for, self._first = known, (free, at, sum(queue.works_s[:at]))
        free, at, planned_s = self._first
        variant = newcomer.eligibility.variants[0]
        longest_s = max(self._full_s[variant], *(self._full_s[v] for v in queue.fallbacks))
        stretch, spread = (part * latency.slowdown for part in _noise(ratio, door=True))
        if hand_over_s:
            stretch += hand_over_s / longest_s
        need_s = stretch * (work_s - planned_s + longest_s * len(free))
        need_s += spread * sqrt(work_s * longest_s * len(free))
        total = len(requests) + 1
        stride = max(CHECKPOINT, (total - at) // MOST_CHECKPOINTS)
        first = at + (total - at - 1) // stride * stride
        due_s = (requests[first] if first < total - 1 else newcomer).deadline_s - overhead_s
        return (need_s - sum(due_s - at_s for at_s in free if at_s < due_s) - TOLERANCE_S) / len(free)

    def _by_batches(
        self,
        requests: Sequence[Request],
        planned: int,
        now_s: float,
        free_at_s: Sequence[float],
        ratio: float,
        overhead_s: float,
        hand_over_s: float,
        alike: bool,
        door: bool,
    ) -> tuple[list[float], int, int, float, bool]:
        """Plan the first `planned` requests batch by batch.

        When each worker is free then, how many requests were planned, and of `Misses` what they would miss.
        """
        free = [max(now_s, at_s) for at_s in free_at_s]
        heapify(free)
        next_s = free[0]
        at, total, missed, late_s, last = 0, len(requests), 0, 0.0, False
        (steady, spread), batches, workers = _noise(ratio, door=door), 0, len(free)
        while at < planned:
            margin = steady + spread * sqrt(1 + batches // workers)
            count, took_s = self.first_batch(requests, at, free[0], margin, overhead_s, alike)
            done_s = free[0] + took_s
            behind_s = done_s + overhead_s - requests[at].deadline_s
            if behind_s > TOLERANCE_S:
                missed, late_s, last = missed + 1, max(late_s, behind_s), at == total - 1
                if not door or requests[at].deadline_s - overhead_s <= next_s:
                    at += 1
                    continue
            heapreplace(free, free[0] + took_s * (steady / margin) + hand_over_s)
            batches += 1
            at += count
        return free, at, missed, late_s, last

    def fluid(
        self,
        requests: Sequence[Request],
        backlog: Backlog,
        free_at_s: Sequence[float],
        *,
        ratio: float = 1.0,
        overhead_s: float = 0.0,
        hand_over_s: float = 0.0,
        at: int = 0,
        door: bool = False,
    ) -> Misses:
        """What would be missed of the requests from position `at` on, in whole checkpoints: rather too many where the
        requests may share batches.

        `free_at_s` are not in the past.
        """
        free, works_s = sorted(free_at_s), backlog.works_s
        stretch, spread = (part * self._latency.slowdown for part in _noise(ratio, door=door))
        if hand_over_s:  # as many as there are batches, were all as long as the longest
            stretch += hand_over_s / backlog.longest_s
        workers, open_, opened_s = len(free), 0, 0.0
        total = len(requests)
        stride = max(CHECKPOINT, (total - at) // MOST_CHECKPOINTS)
        # What may be wasted: a last batch that is not full, and workers that idle while another ends.
        waste_s = backlog.longest_s * workers
        need_s = stretch * waste_s
        work_s = sum(works_s[:at])
        missed, late_s, last = 0, 0.0, False
        for start in range(at, total, stride):
            part_s = sum(works_s[start : start + stride])
            need_s += stretch * part_s
            due_s = requests[start].deadline_s - overhead_s
            while open_ < workers and free[open_] < due_s:
                opened_s += free[open_]
                open_ += 1
            short_s = need_s - (open_ * due_s - opened_s)
            if spread:
                work_s += part_s
                short_s += spread * sqrt(work_s * waste_s)
            if short_s > TOLERANCE_S:
                end = min(start + stride, total)
                missed, late_s, last = missed + end - start, max(late_s, short_s / workers), end == total
        return Misses(missed, late_s, last) if missed else NO_MISSES


def _noise(ratio: float, *, door: bool) -> tuple[float, float]:
    """What the time of each of many batches is multiplied by, and what is added for that of one, by the square root of
    how many there are. All of `ratio` for each where nothing is left to chance.
    """
    return (min(1.0, ratio), max(0.0, ratio - 1.0)) if door else (ratio, 0.0)


def _sizes(requests: Sequence[Request], at: int, variant: int, knee: int) -> list[int]:
    """Rows of the batches of one, two, ... requests from position `at` that fit under the knee."""
    head = requests[at]
    sizes = [head.rows]
    for place in range(at + 1, min(at + knee, len(requests))):
        request = requests[place]
        rows = sizes[-1] + request.rows
        if rows > knee or not joins(request, head, variant):
            break
        sizes.append(rows)
    return sizes


def joins(request: Request, head: Request, variant: int) -> bool:
    """Whether a request may ride in a batch of the head's on that variant."""
    if request.eligibility is head.eligibility:
        return request.group == head.group
    return bool(request.eligibility.mask >> variant & 1) and request.group == head.group
