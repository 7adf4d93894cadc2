"""Who decides how many gateways there are: the production law, and the usual rules to compare it with.

A scaler is named as `signals` (ours), `ongoing:TARGET` (requests in the gateways over TARGET for each, Ray Serve's
default), `busy:TARGET` (the present number times busy ratio over TARGET, Kubernetes' autoscaler), `fixed:NUMBER`.
All of them keep the same bounds and delays; `ray-defaults` is `ongoing:2` with Ray Serve's own.
"""

from collections import deque
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

from serving.core.autoscaling import Autoscaler, ScalingRules
from serving.core.demand import ReplicaSignals

BUSY_TOLERANCE = 0.1
"""Kubernetes' autoscaler does nothing while the ratio is this near to its target."""
RAY_TARGET, RAY_WINDOW_S, RAY_UP_S, RAY_DOWN_S = 2.0, 30.0, 30.0, 600.0
"""Serve's defaults: `target_ongoing_requests`, `look_back_period_s`, `upscale_delay_s`, `downscale_delay_s`."""
DEFAULT = ("signals", "busy:0.7", "ongoing:2", "ray-defaults")


class ScalerError(ValueError):
    """A scaler that does not exist; the message names those that do."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a scaler may see."""

    signals: ReplicaSignals
    ongoing: float
    """Requests in the gateways, waiting and running."""
    running: int
    """Gateways that serve."""
    target: int
    """Gateways that were asked for."""


class Scaler(Protocol):
    """One fleet's scaler."""

    def decide(self, now_s: float, sight: Sight) -> int:
        """Gateways wanted."""
        ...


class Signals:
    """The production law."""

    def __init__(self, rules: ScalingRules) -> None:
        self._law = Autoscaler(rules)

    def decide(self, now_s: float, sight: Sight) -> int:
        """See `Scaler.decide`."""
        return self._law.decide(now_s, sight.signals, running=sight.running, target=sight.target).replicas


class Fixed:
    """As many as there were."""

    def __init__(self, count: int) -> None:
        self._count = count

    def decide(self, now_s: float, sight: Sight) -> int:  # noqa: ARG002  # the others look
        """See `Scaler.decide`."""
        return self._count


class Proportional:
    """A number that is proportional to something, once it was wanted for the delay, as Ray Serve decides."""

    def __init__(self, rules: ScalingRules, target: float, *, ongoing: bool) -> None:
        """`ongoing`: requests for each gateway; else the busy ratio."""
        self._rules = rules
        self._target = target
        self._ongoing = ongoing
        self._seen: deque[tuple[float, float]] = deque()
        self._since: tuple[int, float] | None = None
        """Direction in which it has been wanted, and since when."""

    def decide(self, now_s: float, sight: Sight) -> int:
        """See `Scaler.decide`."""
        self._seen.append((now_s, sight.ongoing if self._ongoing else sight.signals.busy / sight.signals.workers))
        while now_s - self._seen[0][0] > self._rules.window_s:
            self._seen.popleft()
        mean = sum(value for _, value in self._seen) / len(self._seen)
        if self._ongoing:
            wanted = ceil(mean / self._target)
        else:
            ratio = mean / self._target
            wanted = sight.target if abs(ratio - 1) <= BUSY_TOLERANCE else ceil(sight.running * ratio)
        wanted = min(max(wanted, self._rules.min_replicas), self._rules.max_replicas)
        direction = (wanted > sight.target) - (wanted < sight.target)
        # Gateways on their way are waited for: what is seen is not yet theirs.
        if not direction or sight.running != sight.target:
            self._since = None
            return sight.target
        if self._since is None or self._since[0] != direction:
            self._since = direction, now_s
        delay_s = self._rules.up_delay_s if direction > 0 else self._rules.down_delay_s
        return wanted if now_s - self._since[1] >= delay_s else sight.target


def named_scaler(name: str, rules: ScalingRules) -> Scaler:
    """The scaler of that name. Raises `ScalerError`."""
    kind, _, argument = name.partition(":")
    try:
        match kind, bool(argument):
            case "signals", False:
                return Signals(rules)
            case "ray-defaults", False:
                own = replace(rules, up_delay_s=RAY_UP_S, down_delay_s=RAY_DOWN_S, window_s=RAY_WINDOW_S)
                return Proportional(own, RAY_TARGET, ongoing=True)
            case "fixed", True if int(argument) >= 1:
                return Fixed(int(argument))
            case "ongoing" | "busy", True if float(argument) > 0:
                return Proportional(rules, float(argument), ongoing=kind == "ongoing")
    except ValueError:
        pass
    raise ScalerError(
        f"there is no scaler '{name}'; there are: signals, ongoing:TARGET, busy:TARGET, ray-defaults, fixed:NUMBER"
    )
