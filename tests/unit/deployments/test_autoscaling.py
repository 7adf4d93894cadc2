"""The law behind Serve's interface. No cluster: Serve's own objects are made by hand."""

import warnings
from dataclasses import dataclass
from typing import Any

import pytest

from serving.config import AutoscalingSettings
from serving.core.demand import ModelSignals, ReplicaSignals

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray Serve has some at its import
    from deployments.autoscaling import STALE_S, SignalPolicy, autoscaling_config, read_signals

SETTINGS = AutoscalingSettings(max_replicas=5, up_delay_s=2.0)


@dataclass(frozen=True)
class Point:
    """One entry of a series, as Serve keeps it."""

    timestamp: float
    value: float


def raw(now_s: float, **replicas: dict[str, float]) -> dict[str, dict[str, list[Point]]]:
    """The series of some replicas, with an older and wrong point before the last."""
    found: dict[str, dict[str, list[Point]]] = {}
    for replica, numbers in replicas.items():
        for name, value in numbers.items():
            found.setdefault(name, {})[replica] = [Point(now_s - 9, -1.0), Point(now_s - 1, value)]
    return found


def load(demand: float, **rest: float) -> ReplicaSignals:
    return ReplicaSignals(1.0, 0.5, {"m": ModelSignals(10.0, demand, demand, **rest)})


def test_the_replicas_last_words_are_added_up() -> None:
    found = read_signals(raw(100.0, a=load(0.5).flat(), b=load(0.25).flat()), 100.0)
    assert found is not None
    assert (found.workers, found.busy, found.models["m"].demand) == (2.0, 1.0, 0.75)


def test_who_is_silent_for_long_is_not_listened_to() -> None:
    old = raw(100.0, a=load(0.5).flat())
    assert read_signals(old, 99.0 + STALE_S) is not None
    assert read_signals(old, 99.1 + STALE_S) is None
    assert read_signals({}, 0.0) is None


def test_what_workers_pass_on_counts_once() -> None:
    """Two workers, each with all gateways' demand; the one that has just started has heard of half of it."""
    said = {"relayed": 1.0}
    found = read_signals(raw(100.0, a=load(3.0).flat() | said, b=load(1.5).flat() | said), 100.0)
    assert found is not None
    assert (found.workers, found.busy, found.models["m"].demand) == (2.0, 1.0, 3.0)


class Context:
    """The part of Serve's context that the policy looks at."""

    deployment_name = "gateway"

    def __init__(self, now_s: float, metrics: Any, running: int = 1, target: int = 1) -> None:
        self.current_time = now_s
        self.raw_metrics = metrics
        self.current_num_replicas = running
        self.target_num_replicas = target


def test_the_policy_asks_for_what_the_law_says() -> None:
    policy = SignalPolicy(SETTINGS.model_dump_json(), 1)
    said = [policy(Context(at, raw(at, a=load(2.0).flat())))[0] for at in (100.0, 101.0, 102.0)]
    assert said == [1, 1, 3]


def test_what_goes_wrong_in_it_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Serve would stop all its rounds otherwise."""
    policy = SignalPolicy(SETTINGS.model_dump_json(), 1)
    assert policy(Context(100.0, {"workers": {"a": [object()]}}, running=4, target=4)) == (4, {})  # type: ignore[arg-type]
    assert "the number of replicas stays" in caplog.text


def test_serve_leaves_delays_and_steps_to_the_law_and_knows_the_bounds() -> None:
    config = autoscaling_config(AutoscalingSettings(min_replicas=2, max_replicas=5), 1)
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (2, 2, 5)
    assert config.upscale_delay_s == config.downscale_delay_s == 0.0
    assert config.metrics_interval_s < STALE_S
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)  # as the controller makes it
    assert policy(Context(100.0, {}, running=2, target=2)) == (2, {})
