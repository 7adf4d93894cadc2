"""The door: take a request only if it, and what is promised already, can still be met."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serving.core.edf import EdfQueue
from serving.core.plan import PLANNED, Backlog, FallbackPlan, Misses
from serving.core.request import Request


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may join the queue."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request is refused; `retry_after_s` from now it may fare better."""

    cause: Literal["work", "bytes", "budget"]
    """Work ahead; bytes held; or a budget that even an idle gateway could not meet as things go now."""
    retry_after_s: float


_ADMITTED = Admitted()


def admit(
    request: Request,
    now_s: float,
    *,
    queue: EdfQueue,
    plan: FallbackPlan,
    free_at_s: Sequence[float],
    overhead_s: float,
    ratio: float,
    max_bytes: int,
    caution_s: float = 0.0,
    hand_over_s: float = 0.0,
    door_s: float = 0.0,
) -> Admitted | Rejected:
    """Whether taking the request lets the cheapest plan keep every promise it could keep without it.

    The queue is bounded by work, not by count: by the seconds of service that the deadlines in it leave.
    `caution_s` is what an answer's overhead may stray by: whoever has to wait is only taken with that much room. Filled
    to the last moment, a queue that stays full would meet few of its promises.
    `door_s` is what reading a request takes before it stands here, on an idle gateway.
    Promises that got lost since they were made (service turned slower) do not speak against a newcomer, but are in its
    way: whoever has little chance left is served all the same. Counted as gone, each would let in another who is then
    late like it, and an overload ends with everybody at the edge of the deadline.
    """
    if queue.size_bytes + request.size_bytes > max_bytes:
        return Rejected("bytes", max(0.0, request.deadline_s - now_s))
    at = queue.position(request)
    waiting = queue.requests
    alike = queue.all_like(request)
    careful_s = overhead_s + caution_s if waiting or min(free_at_s) > now_s else overhead_s
    if at == len(waiting) and at >= 2 * PLANNED:
        late_s = plan.late_behind(
            queue, request, now_s, free_at_s, ratio=ratio, overhead_s=careful_s, hand_over_s=hand_over_s, alike=alike
        )
        if late_s <= 0:
            return _ADMITTED
        return _refused(request, late_s, plan, ratio, overhead_s, door_s)
    with_it = [*waiting[:at], request, *waiting[at:]]
    backlog = plan.backlog(queue)
    fuller = backlog.merged(at, plan.backlog_of(request))

    def missing(requests: Sequence[Request], work: Backlog) -> Misses:
        return plan.misses(
            requests,
            now_s,
            free_at_s,
            ratio=ratio,
            overhead_s=careful_s,
            hand_over_s=hand_over_s,
            alike=alike,
            backlog=work,
            door=True,
        )

    missed = missing(with_it, fuller)
    if not missed.count:
        return _ADMITTED
    newcomer_misses = missed.last and at == len(waiting)
    if not newcomer_misses and missed.count <= missing(waiting, backlog).count:
        return _ADMITTED
    return _refused(request, missed.late_s, plan, ratio, overhead_s, door_s)


def _refused(
    request: Request, late_s: float, plan: FallbackPlan, ratio: float, overhead_s: float, door_s: float
) -> Rejected:
    """Because of the work ahead, or of a budget too short for an idle gateway (`door_s` after its receipt)."""
    calm_s = request.arrival_s + door_s
    alone = plan.misses([request], calm_s, [calm_s], ratio=ratio, overhead_s=overhead_s)
    return Rejected("budget" if alone.count else "work", late_s)
