"""What happens to one request: admit, enqueue, decide, run, split, account. No wire in here."""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from models.cascade import CUT_SHORT, WENT_ON
from models.manifest import ESCALATED
from serving.cache import Kept, Key, key_of
from serving.core.admission import Rejected as Refusal
from serving.core.budget import RequestBudget, round_up
from serving.core.errors import Cancelled, Expired, Infeasible, Rejected, Unavailable, UnknownModel
from serving.core.fleet import VariantView
from serving.core.outcome import Outcome
from serving.core.request import Eligibility, Reason, Request
from serving.dispatcher import Answer, Dispatcher, Pending
from serving.lane import Done, Lane
from serving.ports import Clock, Tensors
from serving.tracing import Trace

TOO_MUCH_WORK = "too much work is queued to meet the latency budget: retry later, or allow more time"

OFF_LOOP_BYTES = 256 * 1024
"""Larger inputs are hashed in a thread."""

OnDisconnect = Callable[[Callable[[], object]], None]
"""Registers what to do when the caller goes away."""


@dataclass(frozen=True, slots=True)
class Call:
    """One inference request, checked and decoded."""

    inputs: Tensors
    rows: int
    budget: RequestBudget
    received_s: float
    """When its last byte was received, on the gateway's clock."""
    size_bytes: int = 0
    group: Hashable = None
    """Requests of one model share a batch only when this is equal."""
    trace: Trace | None = None
    """Where its way is told, when it is traced."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer, and what is worth telling about it."""

    outputs: Tensors
    variant: str
    accuracy: float | None
    batch_rows: int
    queue_s: float
    compute_s: float
    predicted_s: float
    """Time from receipt to answer that was predicted when the batch was started."""
    deadline_met: bool
    reason: Reason
    cached: bool = False
    """Whether it was answered before."""
    escalated: float | None = None
    """Share of the rows that a cascade passed on to its second variant; None for what is no cascade."""


class Gateway:
    """The served models and the walk of a request through them."""

    def __init__(self, lanes: Sequence[Lane], dispatcher: Dispatcher, clock: Clock) -> None:
        """Lanes of one model are its versions; a call that names none gets the highest."""
        self._dispatcher = dispatcher
        self._clock = clock
        self._versions: dict[str, dict[str, Lane]] = {}
        self._latest: dict[str, Lane] = {}
        self._offer(lanes)
        self.ready = False

    def exchange(self, coming: Sequence[Lane], going: Sequence[Lane]) -> None:
        """Offer other models from this moment on: no request comes between the old ones and the new.

        A lane that goes still serves whoever holds it: see `drained`.
        """
        for lane in coming:
            self._dispatcher.add(lane)
        kept = [lane for versions in self._versions.values() for lane in versions.values() if lane not in going]
        self._offer([*kept, *coming])
        for lane in going:
            lane.retire()

    async def drained(self, lane: Lane) -> None:
        """Wait until nobody needs a lane that is offered no longer; then it is gone."""
        await self._dispatcher.remove(lane)
        lane.publish_state()

    def _offer(self, lanes: Iterable[Lane]) -> None:
        versions: dict[str, dict[str, Lane]] = {}
        for lane in sorted(lanes, key=lambda lane: (lane.family.name, int(lane.family.version))):
            versions.setdefault(lane.family.name, {})[lane.family.version] = lane
        # Replaced whole: whoever walks through the old ones is not disturbed.
        self._versions = versions
        self._latest = {name: next(reversed(found.values())) for name, found in versions.items()}

    @property
    def lanes(self) -> dict[str, dict[str, Lane]]:
        """Every lane by model name and version, versions rising."""
        return self._versions

    def lane(self, model: str, version: str | None = None) -> Lane:
        """The lane of a model. Raises `UnknownModel` with the text that clients of Triton match."""
        try:
            return self._latest[model] if version is None else self._versions[model][version]
        except KeyError:
            asked = f"'{model[:80]}'" if version is None else f"'{model[:80]}' version {version[:16]}"
            raise UnknownModel(f"Request for unknown model: {asked} is not found") from None

    def turn_away(self, lane: Lane, latency_s: float, received_s: float) -> None:
        """In an overload, refuse a request that is not worth reading. Raises `Rejected`; counts as one row."""
        refusal = self._dispatcher.turn_away(lane, received_s, received_s + latency_s)
        if refusal is not None:
            lane.count_end(Outcome.REJECTED, 1, self._clock() - received_s)
            raise Rejected(TOO_MUCH_WORK, refusal.retry_after_s)

    async def infer(self, lane: Lane, call: Call, on_disconnect: OnDisconnect | None = None) -> Result:
        """Answer one call with the best variant its budget allows.

        Exactly one outcome is counted for it. Raises `Infeasible`, `UnknownModel` (a pinned variant),
        `Rejected`, `Expired`, `Cancelled`, `InputRefusedByModel`, `Unavailable` or `InternalError`.
        """
        # The priority orders requests, it does not change what the budget allows: one cache entry for all.
        budget = replace(call.budget, priority=0) if call.budget.priority else call.budget
        try:
            eligibility = lane.eligibility(budget, call.rows)
        except (Infeasible, UnknownModel):
            lane.doubt(budget, call.rows, self._clock())
            lane.count_end(Outcome.REJECTED, call.rows, self._clock() - call.received_s)
            raise
        except Unavailable:
            lane.count_end(Outcome.FAILED, call.rows, self._clock() - call.received_s)
            raise
        key: Key | None = None
        if lane.cache is not None:
            started_s = self._clock()
            key = await _key_of(call.inputs)
            kept = lane.cache.find(key, started_s)
            if kept is not None and kept.serves(call.budget, call.rows, eligibility, lane.variants):
                lane.count_look_up("hit", self._clock() - started_s)
                return self._give_again(lane, call, eligibility, kept)
            lane.count_look_up("miss", self._clock() - started_s)
        pending = Pending(call.inputs, asyncio.get_running_loop().create_future(), call.trace)
        request = Request(
            rows=call.rows,
            arrival_s=call.received_s,
            deadline_s=call.received_s + call.budget.latency_s,
            eligibility=eligibility,
            priority=call.budget.priority,
            group=call.group,
            size_bytes=call.size_bytes,
            payload=pending,
        )
        try:
            verdict = self._dispatcher.submit(lane, request)
        except Unavailable:
            lane.count_end(Outcome.FAILED, call.rows, self._clock() - call.received_s)
            raise
        if isinstance(verdict, Refusal):
            lane.count_end(Outcome.REJECTED, call.rows, self._clock() - call.received_s)
            raise _refused(verdict, lane, request)
        if on_disconnect is not None:
            on_disconnect(pending.abandon)
        answer = await self._wait(lane, request, pending)
        result = self._account(lane, request, answer)
        if lane.cache is not None and key is not None:
            variant = next(view for view in lane.variants if view.name == result.variant)
            lane.cache.keep(key, answer.outputs, variant, self._clock())
        return result

    def _give_again(self, lane: Lane, call: Call, choice: Eligibility, kept: Kept) -> Result:
        """Answer with what was answered before."""
        duration_s = self._clock() - call.received_s
        met = duration_s <= call.budget.latency_s
        lane.count_answer(Done(call.rows, kept.variant, choice.reason, duration_s, 0.0), met=met)
        return Result(
            outputs=kept.outputs,
            variant=kept.variant.name,
            accuracy=kept.variant.known_accuracy,
            batch_rows=call.rows,
            queue_s=0.0,
            compute_s=0.0,
            predicted_s=duration_s,
            deadline_met=met,
            reason=choice.reason,
            cached=True,
            escalated=_escalated(kept.outputs),
        )

    async def _wait(self, lane: Lane, request: Request, pending: Pending) -> Answer:
        outcome = Outcome.FAILED
        try:
            answer = await pending.future
        except asyncio.CancelledError:
            self._dispatcher.cancel(lane, request)
            outcome = Outcome.CANCELLED
            if pending.abandoned:
                raise Cancelled("the caller went away before the answer") from None
            raise
        except Expired:
            outcome = Outcome.EXPIRED
            lane.scheduler.ended(request, None)
            raise
        else:
            outcome = Outcome.MET  # or late: counted with the answer
            return answer
        finally:
            if outcome is not Outcome.MET:
                lane.count_end(outcome, request.rows, self._clock() - request.arrival_s)

    def _account(self, lane: Lane, request: Request, answer: Answer) -> Result:
        now_s = self._clock()
        variant = _answered_by(lane, answer)
        reason = lane.scheduler.explain(request, variant.index)
        queue_s = max(0.0, answer.started_s - request.arrival_s)
        met = now_s <= request.deadline_s
        lane.scheduler.ended(request, variant.index if met else None)
        # Where a batch waits at its worker for the one before, that wait is in here too, though the plan knows of it:
        # a choice for a start that is far off has to leave more room.
        lane.scheduler.observe_overhead(now_s - answer.started_s - answer.service_s)
        done = Done(request.rows, variant, reason, now_s - request.arrival_s, queue_s)
        lane.count_answer(done, met=met)
        trace: Trace | None = request.payload.trace
        if trace is not None:
            trace.stage("queue", request.arrival_s, answer.started_s)
            trace.stage("batch", answer.started_s, now_s, {"gearshift.rows": answer.batch_rows}, trace.batch)
            lane.exemplify(done, trace.trace_id, met=met)
        return Result(
            outputs=answer.outputs,
            variant=variant.name,
            accuracy=variant.known_accuracy,
            batch_rows=answer.batch_rows,
            queue_s=queue_s,
            compute_s=answer.compute_s,
            predicted_s=queue_s + answer.predicted_s + lane.scheduler.overhead_s,
            deadline_met=met,
            reason=reason,
            escalated=_escalated(answer.outputs),
        )


async def _key_of(inputs: Tensors) -> Key:
    if sum(array.nbytes for array in inputs.values()) > OFF_LOOP_BYTES:
        return await asyncio.to_thread(key_of, inputs)
    return key_of(inputs)


def _answered_by(lane: Lane, answer: Answer) -> VariantView:
    """What an answer is worth: a cascade that found no time for some of the rows is its first variant."""
    variant = lane.variants[answer.variant]
    fates = answer.outputs.get(ESCALATED)
    if variant.cascade is None or fates is None or not (fates == CUT_SHORT).any():
        return variant
    return lane.variants[variant.cascade[0]]


def _escalated(outputs: Tensors) -> float | None:
    fates = outputs.get(ESCALATED)
    return None if fates is None else float((fates == WENT_ON).mean())


def _refused(verdict: Refusal, lane: Lane, request: Request) -> Rejected | Infeasible:
    """What to tell a caller who was turned away at the door."""
    match verdict.cause:
        case "budget":
            fastest = lane.variants[request.eligibility.variants[0]].name
            return Infeasible(
                f"the latency budget is too short for model '{lane.family.name}' on this host now: the nearest "
                f"feasible latency_budget_ms is {round_up(lane.scheduler.least_s(request) * 1.1e3)} "
                f"(variant '{fastest}')"
            )
        case "bytes":
            return Rejected("too many input bytes are queued: retry later", verdict.retry_after_s)
        case "work":
            return Rejected(TOO_MUCH_WORK, verdict.retry_after_s)
