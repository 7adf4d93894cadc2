"""Decisions, the policy that makes them, and the scheduler that a dispatcher or a simulator drives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import Protocol

from serving.core.admission import Admitted, Rejected, admit
from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView, latency_model
from serving.core.latency import LatencyModel
from serving.core.plan import FallbackPlan
from serving.core.request import Reason, Request

RATE_WINDOW_S = 0.5
"""Time constant of the arrival rate, seconds: a few budgets long, so that bursts show and noise does not."""
HORIZON_WEIGHT = 0.02
"""Weight of the newest request's budget in the horizon."""
MIN_HORIZON_S = 1e-3
OVERHEAD_WEIGHT = 0.05
"""Weight of the newest answer in the overhead: about the last twenty count."""
OVERHEAD_STEP_S = 0.0005


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


class Scheduler:
    """One model's queue, what was learnt about its variants, and its policy.

    The production object: the live dispatcher and the simulator drive the same one. It never looks at a clock.
    """

    def __init__(
        self, variants: tuple[VariantView, ...], policy: PolicyFactory, options: SchedulerOptions | None = None
    ) -> None:
        self.variants = variants
        self.latency = latency_model(variants)
        self.queue = EdfQueue()
        self.options = options or SchedulerOptions()
        self._policy = policy(variants, self.latency)
        self._plan = FallbackPlan(self.latency, [v.knee_rows for v in variants])
        self._rate = 0.0
        self._rate_at_s = -inf
        self._horizon_s = 0.0
        self.overhead_s = 0.0

    def offer(self, request: Request, now_s: float, free_at_s: Sequence[float]) -> Admitted | Rejected:
        """Admit the request to the queue, or refuse it at the door because of the work ahead."""
        self._count_arrival(request, now_s)
        verdict = admit(
            request,
            now_s,
            queue=self.queue,
            plan=self._plan,
            free_at_s=free_at_s,
            overhead_s=self.overhead_s,
            ratio=self.latency.quantile_ratio(self.options.plan_quantile),
            max_bytes=self.options.max_bytes,
        )
        if isinstance(verdict, Admitted):
            self.queue.push(request)
        return verdict

    def decide(self, now_s: float, idle: int, free_at_s: Sequence[float]) -> Decision:
        """The policy's decision; what is dispatched or expired has left the queue when this returns.

        `idle` batches may start now; `free_at_s` says when each worker becomes free, rising.
        """
        fleet = FleetSnapshot(
            idle=idle,
            free_at_s=tuple(free_at_s),
            arrival_rate=self._rate_at(now_s),
            horizon_s=max(self._horizon_s, MIN_HORIZON_S),
            batch_overhead_s=self.options.batch_overhead_s,
            overhead_s=self.overhead_s,
        )
        decision = self._policy.decide(now_s, self.queue, fleet)
        if isinstance(decision, Dispatch | Expire):
            self.queue.take(decision.requests)
        return decision

    def cancel(self, request: Request) -> bool:
        """The caller went away: leave the queue. False when the request has left it already."""
        return self.queue.remove(request)

    def observe(self, variant: int, rows: int, seconds: float) -> float:
        """Learn from a finished batch; returns observed / predicted time."""
        return self.latency.observe(variant, rows, seconds)

    def observe_overhead(self, seconds: float) -> None:
        """Learn what an answer spends in the gateway besides the queue and the model.

        A single stall (a collection, a preemption) may not close the door to tight budgets: what is far
        above the usual counts as a step above it.
        """
        step_s = min(seconds, 2 * self.overhead_s + OVERHEAD_STEP_S) - self.overhead_s
        self.overhead_s += OVERHEAD_WEIGHT * step_s

    def explain(self, request: Request, variant: int) -> Reason:
        """Why `variant` answered `request`."""
        choice = request.eligibility
        if variant == choice.best or self.variants[variant].accuracy >= self.variants[choice.best].accuracy:
            return choice.reason
        budget_s = request.deadline_s - request.arrival_s - self.overhead_s
        safe_s = self.latency.mean_s(choice.best, request.rows) * self.latency.quantile_ratio(
            self.options.plan_quantile
        )
        return "load" if safe_s <= budget_s else "budget"

    def _count_arrival(self, request: Request, now_s: float) -> None:
        self._rate = self._rate_at(now_s) + request.rows / RATE_WINDOW_S
        self._rate_at_s = now_s
        budget_s = request.deadline_s - request.arrival_s
        weight = HORIZON_WEIGHT if self._horizon_s else 1.0
        self._horizon_s += weight * (budget_s - self._horizon_s)

    def _rate_at(self, now_s: float) -> float:
        """Rows a second, decayed to now: each arrival adds rows/window and fades with the window."""
        return self._rate * exp((self._rate_at_s - now_s) / RATE_WINDOW_S) if self._rate else 0.0
