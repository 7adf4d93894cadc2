"""The control law of `serving.core.autoscaling` as Ray Serve's autoscaling policy.

Replicas publish their signals with `record_autoscaling_stats`; Serve's controller carries them here about once a second
and calls the policy in each of its rounds. All delays, cool-downs and steps are the law's own: Serve's are set to
nothing. Bounds are told to both.
"""

import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serving.config import AutoscalingSettings
from serving.core.autoscaling import Autoscaler
from serving.core.demand import ReplicaSignals, together

POLICY = "deployments.autoscaling:SignalPolicy"
PUSH_S = 1.0
"""How often signals travel."""
STALE_S = 15.0
"""Signals older than this speak of a replica that has stopped speaking."""

log = logging.getLogger("ray.serve")  # what the controller writes down


class SignalPolicy:
    """One deployment's autoscaler, inside Serve's controller, which makes one object and keeps it."""

    def __init__(self, settings_json: str, replicas: int) -> None:
        """`settings_json`: the section `autoscaling`; `replicas` are started."""
        self._law = Autoscaler(AutoscalingSettings.model_validate_json(settings_json).rules(replicas))

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas wanted. Whatever goes wrong here must not end Serve's own rounds: it says so."""
        try:
            return self._decide(ctx), {}
        except Exception:
            log.exception("the autoscaling policy failed: the number of replicas stays")
            return ctx.target_num_replicas, {}

    def _decide(self, ctx: AutoscalingContext) -> int:
        signals = read_signals(ctx.raw_metrics or {}, ctx.current_time or 0.0)
        target = ctx.target_num_replicas
        wanted = self._law.decide(ctx.current_time or 0.0, signals, running=ctx.current_num_replicas, target=target)
        if wanted.replicas != target:
            log.warning(  # Serve logs at this level
                "%s: %d -> %d replicas (%s%s; the load is worth %.2f, correction %.2f)",
                ctx.deployment_name, target, wanted.replicas, wanted.reason,
                f", model '{wanted.model}'" if wanted.model else "", wanted.needed, wanted.correction,
            )  # fmt: skip
        return wanted.replicas


def read_signals(raw: Mapping[str, Mapping[Any, Iterable[Any]]], now_s: float) -> ReplicaSignals | None:
    """What the replicas said last, together; None where nobody says anything.

    `raw`: metric name -> replica -> points in the order of time, as Serve keeps them. Worker replicas each pass on what
    all gateways told them (`relayed`): of these the one that has heard most speaks for all.
    """
    by_replica: dict[Any, dict[str, float]] = {}
    for name, series_of in raw.items():
        for replica, series in series_of.items():
            last = list(series)[-1:]
            if last and now_s - last[0].timestamp <= STALE_S:
                by_replica.setdefault(replica, {})[name] = last[0].value
    spoken = [ReplicaSignals.read(numbers) for numbers in by_replica.values() if "workers" in numbers]
    if not spoken:
        return None
    total = together(spoken)
    if not any(numbers.get("relayed") for numbers in by_replica.values()):
        return total
    best = max(spoken, key=lambda told: sum(model.demand_now for model in told.models.values()))
    return ReplicaSignals(total.workers, total.busy, best.models)


def autoscaling_config(settings: AutoscalingSettings, replicas: int) -> AutoscalingConfig:
    """For a deployment of which `replicas` are started. Its class has `record_autoscaling_stats`."""
    rules = settings.rules(replicas)
    kwargs = {"settings_json": settings.model_dump_json(), "replicas": replicas}
    with warnings.catch_warnings():
        # The interval's setting is deprecated in favour of a variable that Serve 2.60 reads nowhere.
        warnings.simplefilter("ignore")
        return AutoscalingConfig(
            min_replicas=rules.min_replicas,
            max_replicas=rules.max_replicas,
            initial_replicas=min(max(replicas, rules.min_replicas), rules.max_replicas),
            metrics_interval_s=PUSH_S,
            look_back_period_s=5 * PUSH_S,
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            policy=AutoscalingPolicy(policy_function=POLICY, policy_kwargs=kwargs),
        )
