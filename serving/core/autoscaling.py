"""How many replicas a load wants: a control law over the signals of `serving.core.demand`. No clock, no framework.

Feed-forward first. Demand says how many workers the present rows would keep busy at the accuracy wanted, so

    needed = sum over models of demand / target_busy, over the workers of a replica

is the answer at once, whatever the present number is and however overloaded it is; a law that multiplies the present
number by an error (busy ratio, requests in flight) needs several rounds, and a start of replicas between them. Feedback
second: where accuracy is still given up, or deadlines missed, with as many replicas as that, prices are not what they
seem (bursts, a busy host), and `needed` is raised by a correction that is forgotten slowly. The correction also keeps
the fleet from going back to a size that was too small a moment ago.

Up: what was needed during the whole of a short delay. Down: the most that was needed, with a margin, during the whole
of a long one, and only if the workers that stay would not be busier than a scheduler counts on.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, exp, floor
from types import MappingProxyType
from typing import Literal

from serving.core.demand import ModelSignals, ReplicaSignals

DOWN_MARGIN = 0.1
"""Replicas are taken away only if so much more work than there was would have been served without them."""
MOST_BUSY = 0.9
"""Share of the time of the workers that stay which their work, as it was measured, may take after a scale-in."""
MOST_CORRECTION = 3.0
"""What needs more than this times the computed replicas is not cured by replicas."""
MEMORY = 5.0
"""Time constant in which a correction is forgotten, in down-delays."""
ROUNDING = 1e-6

Reason = Literal["steady", "bounds", "demand", "missing_accuracy", "calm", "no_signals"]
"""Why a number is wanted: nothing to change; outside the bounds; more work than the replicas are for; accuracy is given
up although they should do; fewer would have done for long; nobody says anything."""


@dataclass(frozen=True, slots=True)
class ModelTargets:
    """What one model's service is to be like."""

    target_busy: float = 0.7
    """Share of worker time its work may take: what is left absorbs bursts. Above 0, at most 1."""
    max_accuracy_forgone: float = 0.005
    """Mean accuracy that load may cost before it is a reason to scale out."""
    min_attainment: float = 0.99
    """Share of rows answered in time below which it is one."""


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """Bounds, delays and steps. Times in seconds."""

    min_replicas: int = 1
    max_replicas: int = 1
    up_delay_s: float = 3.0
    """How long more replicas must have been needed before they are asked for."""
    up_cooldown_s: float = 5.0
    """Least time between two scale-outs."""
    max_up_factor: float = 4.0
    """Most replicas of a scale-out, as a multiple of the present ones; one more is always allowed."""
    down_delay_s: float = 120.0
    """How long fewer must have been enough before any are given back."""
    down_cooldown_s: float = 15.0
    """Least time between two scale-ins."""
    max_down_share: float = 0.5
    """Most of the replicas given back at once, as a share; one is always allowed."""
    window_s: float = 10.0
    """Over about how long signals are averaged. Work that waits is to be done in it, besides what arrives; and so long
    the replicas there are are given to show in the signals before they are called too few."""
    targets: ModelTargets = field(default_factory=ModelTargets)
    """Of the models that have none of their own."""
    models: Mapping[str, ModelTargets] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, model: str) -> ModelTargets:
        """A model's targets."""
        return self.models.get(model, self.targets)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A decision."""

    replicas: int
    reason: Reason
    needed: float
    """Replicas that the load is worth, correction included; a fraction."""
    correction: float
    model: str = ""
    """The model that needs most, or misses most."""


class Autoscaler:
    """The law, and what it remembers. One object for each fleet; `decide` is cheap and may be called often."""

    def __init__(self, rules: ScalingRules) -> None:
        self.rules = rules
        self._highest = _Extreme(rules.down_delay_s, max)
        self._lowest = _Extreme(rules.up_delay_s, min)
        self._correction = 1.0
        self._seen_s: float | None = None
        self._hurting_since_s: float | None = None
        self._counts: tuple[int, int] | None = None
        self._settled_since_s = 0.0
        self._up_s = self._down_s = float("-inf")

    def decide(self, now_s: float, signals: ReplicaSignals | None, *, running: int, target: int) -> Wanted:
        """Replicas wanted now.

        `running` are ready, `target` were asked for last. Without signals, or without a worker in them, the answer is
        `target` within the bounds.
        """
        rules = self.rules
        self._settle(now_s, running, target)
        bounded = min(max(target, rules.min_replicas), rules.max_replicas)
        if bounded != target:
            return Wanted(bounded, "bounds", 0.0, self._correction)
        if signals is None or signals.workers <= 0 or running <= 0:
            return Wanted(target, "no_signals", 0.0, self._correction)
        work = {name: _workers(model, rules.of(name), rules.window_s) for name, model in signals.models.items()}
        hurt = [name for name, model in signals.models.items() if _hurts(model, rules.of(name))]
        workers = signals.workers / running
        base = sum(work.values()) / workers
        missing = self._learn(now_s, base, hurt=bool(hurt), target=target)
        needed = base * self._correction
        self._lowest.add(now_s, needed)
        self._highest.add(now_s, needed * (1 + DOWN_MARGIN))
        heaviest = max(work, key=work.__getitem__, default="")
        lasting = needed if missing else self._lowest.value(now_s)
        if lasting is not None and (up := ceil(lasting - ROUNDING)) > target:
            most = max(target + 1, floor(target * rules.max_up_factor))
            up = min(up, most, rules.max_replicas)
            if up > target and now_s - self._up_s >= rules.up_cooldown_s:
                self._up_s = now_s
                return Wanted(
                    up, "missing_accuracy" if missing else "demand", needed, self._correction,
                    hurt[0] if missing else heaviest,
                )  # fmt: skip
        elif (down := self._fewer(now_s, signals, workers, target, hurt=bool(hurt))) < target:
            self._down_s = now_s
            return Wanted(down, "calm", needed, self._correction, heaviest)
        return Wanted(target, "steady", needed, self._correction, heaviest)

    def _settle(self, now_s: float, running: int, target: int) -> None:
        if self._counts != (running, target):
            self._counts = (running, target)
            self._settled_since_s = now_s

    def _learn(self, now_s: float, base: float, *, hurt: bool, target: int) -> bool:
        """Adapt the correction; whether it was raised: the replicas there are should do, and do not."""
        rules = self.rules
        elapsed_s = 0.0 if self._seen_s is None else max(0.0, now_s - self._seen_s)
        self._seen_s = now_s
        self._correction = 1 + (self._correction - 1) * exp(-elapsed_s / (MEMORY * rules.down_delay_s))
        if not hurt:
            self._hurting_since_s = None
            return False
        if self._hurting_since_s is None:
            self._hurting_since_s = now_s
        # What is asked for must have had its time to arrive, and to show in the signals, before more is blamed on it.
        since_s = max(self._hurting_since_s, self._settled_since_s + rules.window_s)
        ready = self._counts is not None and self._counts[0] >= target
        if not ready or now_s - since_s < rules.up_delay_s or base * self._correction > target or not base:
            return False
        wanted = (target + 0.5) / base
        if wanted > MOST_CORRECTION:
            return False
        self._correction = wanted
        return True

    def _fewer(self, now_s: float, signals: ReplicaSignals, workers: float, target: int, *, hurt: bool) -> int:
        """Replicas that would have done during the whole delay; `target` where none can go now.

        Callers who lose something keep the replicas there are, but for those that no correction could call for: what
        hurts then is not the load.
        """
        rules = self.rules
        most = self._highest.value(now_s)
        draining = self._counts is not None and self._counts[0] > target
        if most is None or draining or now_s - self._down_s < rules.down_cooldown_s:
            return target
        if hurt:
            most *= MOST_CORRECTION / self._correction
        enough = max(ceil(most - ROUNDING), ceil(signals.busy / (MOST_BUSY * workers) - ROUNDING), rules.min_replicas)
        return max(enough, target - max(1, floor(target * rules.max_down_share)))


def _workers(model: ModelSignals, targets: ModelTargets, window_s: float) -> float:
    """Workers this model is worth.

    Demand is that of the slow window; of the fast one where it is higher and the load hurts, so that a step is answered
    at once and the noise of a quiet stream is not.
    """
    demand = max(model.demand, model.demand_now) if _hurts(model, targets) else model.demand
    return (demand + model.backlog_s / window_s) / targets.target_busy


def _hurts(model: ModelSignals, targets: ModelTargets) -> bool:
    return model.accuracy_forgone > targets.max_accuracy_forgone or model.attainment < targets.min_attainment


class _Extreme:
    """The largest, or the smallest, of the values of a sliding window."""

    def __init__(self, window_s: float, best: Callable[[float, float], float]) -> None:
        self._window_s = window_s
        self._best = best
        self._since_s: float | None = None
        # Only values that can still become the extreme are kept: from the best to the newest, ever less good.
        self._values: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, value: float) -> None:
        """The value from now on."""
        if self._since_s is None:
            self._since_s = now_s
        while self._values and self._best(self._values[-1][1], value) == value:
            self._values.pop()
        self._values.append((now_s, value))
        while len(self._values) > 1 and now_s - self._values[0][0] > self._window_s:
            self._values.popleft()

    def value(self, now_s: float) -> float | None:
        """The extreme; None while less than a window was watched."""
        if self._since_s is None or now_s - self._since_s < self._window_s - ROUNDING:
            return None
        return self._values[0][1]
