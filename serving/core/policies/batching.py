"""What the published rules have in common: a batch is built around the request with the earliest deadline."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from math import inf

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.plan import TOLERANCE_S, joins
from serving.core.request import Eligibility, Request
from serving.core.scheduler import Decision, Dispatch, Expire, Wait

FASTEST, MOST_ACCURATE = "fastest", "most-accurate"
"""Names of variants that hold for any family."""


class PolicyError(ValueError):
    """No such policy, or one that asks for what is not there; the message says what there is, or was expected."""


class HeadFirst(ABC):
    """A rule that forms a batch around the head once the queue is settled (`settle`)."""

    def __init__(self, variants: tuple[VariantView, ...], latency: LatencyModel, *, early_drop: bool = False) -> None:
        self._variants = variants
        self._latency = latency
        self._early_drop = early_drop

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """See `Policy.decide`."""
        return self._settled(now_s, queue, fleet) or self._batch(now_s, queue, fleet)

    def _settled(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Expire | Wait | None:
        """See `settle`."""
        return settle(now_s, queue, fleet, self._latency, early_drop=self._early_drop)

    @abstractmethod
    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """What to do with a queue that has a head in time, and an idle worker for it."""


class OneVariant(HeadFirst):
    """A rule that knows one variant: that answers, or the nearest one that a request allows."""

    def __init__(
        self, variants: tuple[VariantView, ...], latency: LatencyModel, name: str, *, early_drop: bool = False
    ) -> None:
        """`name` of the variant. Raises `PolicyError` for one that does not exist."""
        super().__init__(variants, latency, early_drop=early_drop)
        self._wanted = variant_named(variants, name)

    def _settled(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Expire | Wait | None:
        return settle(now_s, queue, fleet, self._latency, early_drop=self._early_drop, answers=self._answers)

    def _answers(self, request: Request) -> int:
        """The variant that answers the request."""
        return stand_in(request.eligibility, self._wanted, self._variants)


def settle(
    now_s: float,
    queue: EdfQueue,
    fleet: FleetSnapshot,
    latency: LatencyModel,
    *,
    early_drop: bool,
    answers: Callable[[Request], int] | None = None,
) -> Expire | Wait | None:
    """What comes before any batch: nobody waits, somebody is too late, or no worker is idle. None: form a batch.

    `early_drop` gives up on heads that would be missed if started next (Nexus, SOSP'19), on the variant that
    `answers` names, or else on the fastest they allow.
    Without it only those whose deadline has passed are dropped, as the code of Clipper and of Proteus does.
    """
    if not queue:
        return Wait()
    start_s = start_of(now_s, fleet) if early_drop else now_s
    count = 0
    until_s = inf
    for request in queue:
        until_s = _last_moment_s(request, fleet, latency, answers) if early_drop else request.deadline_s + TOLERANCE_S
        if start_s < until_s:
            break
        count += 1
    if count:
        return Expire(tuple(queue.requests[:count]))
    return None if fleet.idle else Wait(until_s)


def start_of(now_s: float, fleet: FleetSnapshot) -> float:
    """When a batch that is decided now would start."""
    return max(now_s, fleet.free_at_s[0])


def slack_of(request: Request, now_s: float, fleet: FleetSnapshot) -> float:
    """Seconds a batch decided now may take for the request to be answered in time."""
    return request.deadline_s - fleet.overhead_s - start_of(now_s, fleet) + TOLERANCE_S


def dispatch(queue: EdfQueue, variant: int, most_rows: int, latency: LatencyModel) -> Dispatch:
    """A batch of the head and, in deadline order, those that may join it, of at most `most_rows` rows.

    The head goes whatever its rows. The variant must be one the head allows.
    """
    members = _members(queue, variant, most_rows)
    rows = sum(request.rows for request in members)
    return Dispatch(variant, tuple(members), rows, latency.mean_s(variant, rows))


def fitting_rows(latency: LatencyModel, variant: int, within_s: float, most: int) -> int:
    """The largest batch of at most `most` rows expected to take no longer than `within_s`; at least 1."""
    low, high = 1, max(1, most)
    while low < high:
        middle = (low + high + 1) // 2
        if latency.mean_s(variant, middle) <= within_s:
            low = middle
        else:
            high = middle - 1
    return low


def largest_batch(variant: VariantView) -> int:
    """The largest batch a rule without a knee may form: the largest that was measured."""
    return max(variant.knee_rows, variant.table.rows[-1])


def variant_named(variants: Sequence[VariantView], name: str) -> int:
    """Index of the variant of that name. Raises `PolicyError` naming those there are."""
    match name:
        case "fastest":
            return min(variants, key=lambda v: v.table.seconds(1)).index
        case "most-accurate":
            return max(variants, key=lambda v: v.accuracy).index
    for variant in variants:
        if variant.name == name:
            return variant.index
    there_are = ", ".join([FASTEST, MOST_ACCURATE, *(variant.name for variant in variants)])
    raise PolicyError(f"the policy asks for variant '{name}', which the family does not have; there are: {there_are}")


def stand_in(eligibility: Eligibility, wanted: int, variants: Sequence[VariantView]) -> int:
    """The wanted variant where the request allows it, else the nearest it allows.

    That is the cheapest at least as accurate, else the most accurate. A system with one variant would break such a
    request's budget or refuse it; this is the kinder reading.
    """
    if wanted in eligibility.variants:
        return wanted
    floor = variants[wanted].accuracy
    return next((v for v in eligibility.variants if variants[v].accuracy >= floor), eligibility.best)


def _last_moment_s(
    request: Request, fleet: FleetSnapshot, latency: LatencyModel, answers: Callable[[Request], int] | None
) -> float:
    variant = request.eligibility.variants[0] if answers is None else answers(request)
    return request.deadline_s - fleet.overhead_s - latency.mean_s(variant, request.rows) + TOLERANCE_S


def _members(queue: EdfQueue, variant: int, most_rows: int) -> Sequence[Request]:
    if queue.alike:
        return queue.requests[: max(1, most_rows)]
    head = queue.head
    members, rows = [head], head.rows
    for request in islice(queue, 1, None):
        if rows >= most_rows:
            break
        if not joins(request, head, variant):
            continue
        if rows + request.rows > most_rows:
            break
        members.append(request)
        rows += request.rows
    return members
