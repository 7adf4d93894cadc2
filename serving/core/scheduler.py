"""Decisions, the policy that makes them, and the scheduler that a dispatcher or a simulator drives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp, inf
from typing import Protocol, runtime_checkable

from serving.core.admission import Admitted, Rejected, admit
from serving.core.demand import Demand, DemandOptions, ModelSignals, Surroundings
from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView, latency_model, own_tables
from serving.core.latency import LatencyModel
from serving.core.plan import FallbackPlan
from serving.core.request import Eligibility, Reason, Request

RATE_BUDGETS = 5.0
"""Time constant of the arrival rate in latency budgets: so that bursts show and noise does not."""
RATE_WINDOW_S = (0.05, 1.0)
"""Least and most seconds of that time constant."""
HORIZON_WEIGHT = 0.02
"""Weight of the newest request's budget in the horizon."""
MIN_HORIZON_S = 1e-3
OVERHEAD_WEIGHT = 0.05
"""Weight of the newest answer in the overhead: about the last twenty count."""
OVERHEAD_STEP_S = 0.0005
CAUTION = 2.0
"""Mean deviations of the overhead that the door leaves room for, as a transport's time-out does (Jacobson, "Congestion
Avoidance and Control", 1988, there four)."""
MOST_CAUTION = 0.1
"""Share of the horizon that this may take: short budgets have none to give away."""
RELAX_AFTER_S = 0.25
"""Refusing for so long without a finished batch, the scheduler begins to doubt what made it refuse. Otherwise one
bad moment could close the door for good: who refuses everything learns nothing."""
NOISE_AGE_S = 1.0
"""A pause this long between two batches makes the noise of those before it old. It is counted in batches: after an
overload of small ones a quiet gateway would go on fearing their jitter, and avoid its best variants, for minutes."""
REFUSING_S = 0.05
"""How long after a refusal the door looks at a request before anybody reads it."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run these requests as one batch on this variant, now."""

    variant: int
    requests: tuple[Request, ...]
    rows: int
    expected_s: float
    """Predicted service time."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until_s` (infinity: before something happens)."""

    until_s: float = inf


@dataclass(frozen=True, slots=True)
class Expire:
    """These can no longer be met: tell their callers at once."""

    requests: tuple[Request, ...]


Decision = Dispatch | Wait | Expire


class Policy(Protocol):
    """Chooses variant and batch together. Pure: what it decides depends on its arguments and on what it learnt."""

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """What to do now. Called when a worker becomes free, on an arrival, and when a `Wait` ends.

        With `fleet.idle` = 0 the answer is never `Dispatch`. The queue is not changed.
        """
        ...


@runtime_checkable
class Learner(Protocol):
    """A policy that is also told how long batches took, for rules that do not go by `LatencyModel`."""

    def observe(self, variant: int, rows: int, seconds: float) -> None:
        """A batch of `rows` rows on a variant took that long. Called after the latency model has learnt."""
        ...


PolicyFactory = Callable[[tuple[VariantView, ...], LatencyModel], Policy]


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What a scheduler assumes of its surroundings."""

    max_bytes: int = 256 * 1024 * 1024
    """Input bytes the queue may hold; work it may hold is bounded by the deadlines."""
    plan_quantile: float = 0.9
    """Share of batches that must be as fast as planned for: room for noise in admission, 0..1."""
    batch_overhead_s: float = 0.0
    """Processor time a batch costs besides the model."""
    admission: bool = True
    """Whether the door judges by work ahead. Without it only `max_bytes` bounds the queue, as in published systems."""
    demand: DemandOptions = field(default_factory=DemandOptions)


class Scheduler:
    """One model's queue, what was learnt about its variants, and its policy.

    The production object: the live dispatcher and the simulator drive the same one. It never looks at a clock.
    """

    def __init__(
        self, variants: tuple[VariantView, ...], policy: PolicyFactory, options: SchedulerOptions | None = None
    ) -> None:
        self.variants = variants = own_tables(variants)
        self.latency = latency_model(variants)
        self.queue = EdfQueue()
        self.options = options or SchedulerOptions()
        self.demand = Demand(variants, self.options.demand)
        self._policy = policy(variants, self.latency)
        self._learner = self._policy if isinstance(self._policy, Learner) else None
        self._plan = FallbackPlan(self.latency, [v.knee_rows for v in variants])
        self._seen = 0.0
        """Rows that arrived, each fading with the window."""
        self._weight_s = 0.0
        """Time that was watched, fading alike: less than the window in the beginning."""
        self._seen_at_s: float | None = None
        self._horizon_s = 0.0
        self._learnt_at_s = 0.0
        self._refused_at_s = -inf
        self._anyone = _most_lenient(variants)
        self._closed: tuple[float, Rejected] | None = None
        self._door_s = 0.0
        """From receipt to the door, on an idle gateway: reading the request."""
        self.overhead_s = 0.0
        self._overhead_spread_s = 0.0
        """Mean deviation of it."""
        self.hand_over_s = self.options.batch_overhead_s
        """Worker time a batch takes besides the model, until the gateway has seen its end and sends the next.

        As assumed of the backend until it is seen; where the next batch waits at the worker it never is."""

    def offer(self, request: Request, now_s: float, free_at_s: Sequence[float]) -> Admitted | Rejected:
        """Admit the request to the queue, or refuse it at the door because of the work ahead."""
        self._count_arrival(request, now_s)
        if not self.queue and max(free_at_s) <= now_s:
            self._door_s += OVERHEAD_WEIGHT * self._step_s(now_s - request.arrival_s, self._door_s)
        self.latency.attend(crowd_of(free_at_s, now_s))
        verdict = self._judge(request, now_s, free_at_s)
        if isinstance(verdict, Admitted):
            self.queue.push(request, self._plan.work_s(request))
            self.demand.arrived(request.eligibility, request.rows)
        else:
            self._refuse(verdict, now_s)
            if verdict.cause != "budget":  # what can never be met is no work for more workers either
                self.demand.refused(request.eligibility, request.rows)
        return verdict

    def work_s(self, request: Request) -> float:
        """Worker time of the request on its cheapest variant, as things go now."""
        return self._plan.work_s(request) * self.latency.slowdown

    def doubt(self, now_s: float) -> None:
        """Somebody is refused because of what was learnt: where no batch has confirmed it for long, forget half."""
        if now_s - self._learnt_at_s > RELAX_AFTER_S:
            self._learnt_at_s = now_s
            self._closed = None
            self.latency.relax()
            self.overhead_s /= 2
            self._overhead_spread_s /= 2

    def refusing(self, now_s: float) -> bool:
        """Whether a request has been refused a moment ago."""
        return now_s - self._refused_at_s <= REFUSING_S

    def turn_away(
        self, arrival_s: float, deadline_s: float, now_s: float, free_at_s: Sequence[float]
    ) -> Rejected | None:
        """A refusal, if load leaves no place for even the most lenient request with this deadline; else None: read it.

        Reading a request costs more than everything else at the door: in an overload this is what keeps
        enough of the processor for those who can be served. Worth asking while `refusing`.
        """
        if self._closed is not None and deadline_s <= self._closed[0]:
            verdict = self._closed[1]
            self._refuse(verdict, now_s)
            self.demand.refused(self._anyone, 1)
            return verdict
        request = Request(rows=1, arrival_s=arrival_s, deadline_s=deadline_s, eligibility=self._anyone)
        judged = self._judge(request, now_s, free_at_s)
        if isinstance(judged, Admitted) or judged.cause == "budget":
            return None
        # Until work is done or dropped the queue only grows and time only passes: who asks for no more than
        # this one is refused like it.
        self._closed = (deadline_s, judged)
        self._count_arrival(request, now_s)
        self._refuse(judged, now_s)
        self.demand.refused(self._anyone, 1)
        return judged

    def decide(self, now_s: float, idle: int, free_at_s: Sequence[float], share: float = 1.0) -> Decision:
        """The policy's decision; what is dispatched or expired has left the queue when this returns.

        `idle` batches may start now; `free_at_s` says when each worker that may be counted on becomes
        free, the next to be used first; `share` is the part of their time that is this model's.
        """
        self.latency.attend(crowd_of(free_at_s, now_s))
        fleet = FleetSnapshot(
            idle=idle,
            free_at_s=tuple(free_at_s),
            arrival_rate=self._rate_at(now_s),
            horizon_s=max(self._horizon_s, MIN_HORIZON_S),
            batch_overhead_s=self.hand_over_s,
            overhead_s=self.overhead_s,
            share=share,
        )
        decision = self._policy.decide(now_s, self.queue, fleet)
        if isinstance(decision, Dispatch | Expire):
            self._closed = None
            self.queue.take(decision.requests)
        return decision

    def ended(self, request: Request, variant: int | None) -> None:
        """An admitted request was answered in time by `variant`, or load left it without such an answer (None).

        Those that ended otherwise (the caller went away, something broke) are not told.
        """
        self.demand.ended(request.eligibility, request.rows, variant)

    def signals(self, now_s: float, workers: int) -> ModelSignals:
        """What an autoscaler goes by, with `workers` to run the model on. To be read about once a second."""
        around = Surroundings(
            workers=workers,
            horizon_s=max(self._horizon_s, MIN_HORIZON_S),
            batch_overhead_s=self.options.batch_overhead_s,
        )
        return self.demand.read(now_s, around, self.queue.rows)

    def cancel(self, request: Request) -> bool:
        """The caller went away: leave the queue. False when the request has left it already."""
        self._closed = None
        return self.queue.remove(request)

    def suspend(self, variant: int) -> list[Request]:
        """The variant cannot run until `resume`: what waits goes on without it.

        Returns the requests that no other variant can answer; they have left the queue.
        """
        self.latency.suspend(variant)
        self._anyone = _most_lenient([v for v in self.variants if v.index not in self.latency.suspended])
        waiting = [request for request in self.queue if request.eligibility.mask >> variant & 1]
        self.queue.take(waiting)
        return self.give_back(waiting, variant)

    def resume(self, variant: int, factor: float | None = None) -> None:
        """The variant can run again. `factor`: how long it takes by what was just seen, over its table."""
        self.latency.resume(variant, factor)
        self._anyone = _most_lenient([v for v in self.variants if v.index not in self.latency.suspended])
        self._closed = None

    def give_back(self, requests: Sequence[Request], failed: int) -> list[Request]:
        """Requests whose batch came to nothing through the variant `failed` queue again, to go without it.

        They were admitted, so no door is in their way. Returns those that no other variant can answer.
        """
        self._closed = None
        others: dict[Eligibility, Eligibility | None] = {}
        lost = []
        for request in requests:
            old = request.eligibility
            if old not in others:
                others[old] = self._without(old, failed)
            rest = others[old]
            if rest is None:
                lost.append(request)
                continue
            request.eligibility = rest
            self.queue.push(request, self._plan.work_s(request))
        return lost

    def _without(self, choice: Eligibility, failed: int) -> Eligibility | None:
        away = self.latency.suspended | {failed}
        left = tuple(variant for variant in choice.variants if variant not in away)
        if not left:
            return None
        best = choice.best if choice.best in left else max(left, key=lambda v: self.variants[v].accuracy)
        return Eligibility(left, best, choice.reason if best == choice.best else "unavailable")

    def observe(
        self,
        variant: int,
        rows: int,
        seconds: float,
        now_s: float,
        *,
        expected_s: float | None = None,
        crowd: float = 0.0,
    ) -> float:
        """Learn from a batch that finished at `now_s`; returns observed / predicted time.

        `expected_s`: see `LatencyModel.observe`. `crowd`: share of the other workers that were busy when it started.
        """
        if now_s - self._learnt_at_s > NOISE_AGE_S:
            self.latency.fade()
        self._learnt_at_s = now_s
        self._closed = None
        self.demand.ran(variant, rows, seconds)
        ratio = self.latency.observe(variant, rows, seconds, expected_s, crowd)
        if self._learner is not None:
            self._learner.observe(variant, rows, seconds)
        return ratio

    def observe_overhead(self, seconds: float) -> None:
        """Learn what an answer spends in the gateway besides the queue and the model.

        A single stall (a collection, a preemption) may not close the door to tight budgets: what is far
        above the usual counts as a step above it.
        """
        step_s = self._step_s(seconds, self.overhead_s)
        self._overhead_spread_s += OVERHEAD_WEIGHT * (abs(step_s) - self._overhead_spread_s)
        self.overhead_s += OVERHEAD_WEIGHT * step_s

    def observe_hand_over(self, seconds: float) -> None:
        """Learn how long a worker was kept by a batch besides the model; as cautiously as the overhead.

        Less than nothing is possible: two batches booked one behind the other may have run side by side. Only what is
        left of the mean counts then.
        """
        step_s = OVERHEAD_WEIGHT * self._step_s(seconds, self.hand_over_s)
        self.hand_over_s = max(0.0, self.hand_over_s + step_s)

    def least_s(self, request: Request) -> float:
        """Time from receipt to answer on an idle gateway with the request's fastest variant, with room for noise."""
        expected_s = self.latency.mean_s(request.eligibility.variants[0], request.rows)
        return self._door_s + expected_s * self.latency.quantile_ratio(self.options.plan_quantile) + self.overhead_s

    @staticmethod
    def _step_s(seen_s: float, usual_s: float) -> float:
        """How far a measurement lies from the usual, with what is far above it cut."""
        return min(seen_s, 2 * usual_s + OVERHEAD_STEP_S) - usual_s

    def explain(self, request: Request, variant: int) -> Reason:
        """Why `variant` answered `request`."""
        choice = request.eligibility
        if variant == choice.best or self.variants[variant].accuracy >= self.variants[choice.best].accuracy:
            return choice.reason
        if choice.best in self.latency.suspended:
            return "unavailable"
        budget_s = request.deadline_s - request.arrival_s - self.overhead_s
        safe_s = self.latency.mean_s(choice.best, request.rows) * self.latency.quantile_ratio(
            self.options.plan_quantile
        )
        return "load" if safe_s <= budget_s else "budget"

    def _judge(self, request: Request, now_s: float, free_at_s: Sequence[float]) -> Admitted | Rejected:
        if not self.options.admission and self.queue.size_bytes + request.size_bytes <= self.options.max_bytes:
            return Admitted()
        return admit(
            request,
            now_s,
            queue=self.queue,
            plan=self._plan,
            free_at_s=free_at_s,
            overhead_s=self.overhead_s,
            caution_s=min(CAUTION * self._overhead_spread_s, MOST_CAUTION * self._horizon_s),
            hand_over_s=self.hand_over_s,
            door_s=self._door_s,
            ratio=self.latency.quantile_ratio(self.options.plan_quantile),
            max_bytes=self.options.max_bytes,
        )

    def _refuse(self, verdict: Rejected, now_s: float) -> None:
        if verdict.cause != "budget":
            self._refused_at_s = now_s
        self.doubt(now_s)

    def _count_arrival(self, request: Request, now_s: float) -> None:
        if self._seen_at_s is None:
            self._seen_at_s = now_s  # The first alone is not yet a rate.
        else:
            self._fade(now_s)
            self._seen += request.rows
        budget_s = request.deadline_s - request.arrival_s
        weight = HORIZON_WEIGHT if self._horizon_s else 1.0
        self._horizon_s += weight * (budget_s - self._horizon_s)

    def _rate_at(self, now_s: float) -> float:
        """Rows a second, over about the last window; over what was watched where that is less.

        A fraction of a budget counts as watched from the start: two close to each other are no flood.
        """
        self._fade(now_s)
        return self._seen / max(self._weight_s, self._horizon_s / RATE_BUDGETS) if self._seen else 0.0

    def _fade(self, now_s: float) -> None:
        if self._seen_at_s is not None and now_s > self._seen_at_s:
            window_s = min(max(RATE_BUDGETS * self._horizon_s, RATE_WINDOW_S[0]), RATE_WINDOW_S[1])
            kept = exp((self._seen_at_s - now_s) / window_s)
            self._seen *= kept
            self._weight_s = window_s - (window_s - self._weight_s) * kept
            self._seen_at_s = now_s


def crowd_of(free_at_s: Sequence[float], now_s: float) -> float:
    """Share of the other workers that are busy, for a batch that starts as soon as one is free."""
    others = len(free_at_s) - 1
    busy = 0
    for at_s in free_at_s:
        if at_s > now_s:
            busy += 1
    return min(1.0, busy / others) if others > 0 else 0.0


def _most_lenient(variants: Sequence[VariantView]) -> Eligibility:
    """What a request without any floor may use."""
    by_speed = sorted(variants, key=lambda v: (v.elsewhere, v.table.seconds(1)))
    best = max(by_speed, key=lambda v: v.accuracy)
    return Eligibility(tuple(v.index for v in by_speed), best.index, "most_accurate")
