"""Gateways that come and go in simulated time."""

import pytest

from loadtests.simulation.scalers import DEFAULT, Fixed, Scaler, ScalerError, Sight, named_scaler
from loadtests.simulation.scaling import Scaled, Scaling, simulate_scaling
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions, Fleet
from loadtests.workload import Call
from serving.core.autoscaling import ModelTargets, ScalingRules
from serving.core.budget import RequestBudget
from serving.core.demand import ModelSignals, ReplicaSignals
from serving.core.policies.registry import LOOK_AHEAD, named_policy
from tests.support.durations import durations_of
from tests.support.views import small_and_large

RULES = ScalingRules(
    max_replicas=4, up_delay_s=2, down_delay_s=10, down_cooldown_s=2, window_s=4,
    targets=ModelTargets(max_accuracy_forgone=0.001),
)  # fmt: skip
BUDGET = RequestBudget(latency_s=0.2)
TINY = Served("m", small_and_large(), durations_of({"v0": (1, 2, 4, 8), "v1": (10, 20, 40, 80)}))


def even(rate: float, seconds: float, start_s: float = 0.0) -> list[Call]:
    """Calls at even distances."""
    return [Call(start_s + at / rate, "m", 1, BUDGET, "plain") for at in range(int(rate * seconds))]


def scaled(asked: list[Call], scaler: Scaler, *, start_s: float = 3.0, gateways: int = 1) -> Scaled:
    """One worker a gateway; a row takes 1 ms on the small variant and 10 on the large one."""
    return simulate_scaling(
        asked,
        [TINY],
        Fleet(workers=1, gateways=gateways),
        named_policy(LOOK_AHEAD),
        scaling=Scaling(RULES, start_s, RULES.window_s),
        scaler=scaler,
        assumptions=Assumptions(batch_overhead_s=0.0, noise=False),
    )


class Script:
    """Asks for what it was told, second by second."""

    def __init__(self, *wanted: int) -> None:
        self._wanted = wanted
        self.sights: list[Sight] = []

    def decide(self, now_s: float, sight: Sight) -> int:
        self.sights.append(sight)
        return self._wanted[min(int(now_s), len(self._wanted) - 1)]


def test_a_gateway_serves_after_its_start_and_is_paid_for_from_the_wish() -> None:
    script = Script(1, 3)
    done = scaled(even(40, 10), script)
    assert list(done.ledger.target)[:6] == [1, 3, 3, 3, 3, 3]
    assert list(done.ledger.paid)[:6] == [1, 3, 3, 3, 3, 3]
    assert list(done.ledger.running)[:6] == [1, 1, 1, 1, 3, 3]
    assert done.ledger.changes == 1
    assert done.ledger.replica_s == 1 + 9 * 3


def test_a_gateway_that_leaves_answers_what_it_has() -> None:
    done = scaled(even(200, 10), Script(3, 3, 3, 1), gateways=3)
    metrics = done.records.metrics([TINY])
    assert metrics.requests == 2000
    assert metrics.attainment == 1.0
    assert done.ledger.running[-1] == 1


def test_the_scaler_sees_the_load_of_all_gateways() -> None:
    script = Script(2)
    scaled(even(120, 12), script, gateways=2)
    last = script.sights[-1]
    assert (last.running, last.target, last.signals.workers) == (2, 2, 2)
    assert last.signals.models["m"].demand == pytest.approx(120 * 0.010, rel=0.1)
    assert last.signals.busy == pytest.approx(120 * 0.010, rel=0.3)
    assert last.ongoing >= 1


def test_a_step_is_bridged_by_small_variants_and_then_served_at_its_best() -> None:
    asked = even(40, 10) + even(200, 40, start_s=10.0) + even(40, 40, start_s=50.0)
    done = scaled(asked, named_scaler("signals", RULES))
    everything = done.records.metrics([TINY])
    assert everything.attainment == 1.0
    shares = {}
    for name, begin_s, end_s in (("bridge", 10.0, 15.0), ("after", 30.0, 50.0), ("end", 60.0, 90.0)):
        first, rest = (done.records.metrics([TINY], since_s=at_s) for at_s in (begin_s, end_s))
        rows = first.rows - rest.rows
        shares[name] = (first.variant_rows["m"]["v1"] - rest.variant_rows["m"]["v1"]) / rows
    assert shares["bridge"] < 0.7
    assert shares["after"] > 0.97
    assert shares["end"] > 0.97
    assert max(done.ledger.target) == 3, "2 workers' worth at 0.7"
    assert done.ledger.target[-1] == 1


def test_too_large_a_fleet_is_never_asked_for_by_the_law() -> None:
    done = scaled(even(40, 60), named_scaler("signals", RULES))
    assert set(done.ledger.target) == {1}


def sight(ongoing: float, busy: float, running: int, target: int | None = None) -> Sight:
    signals = ReplicaSignals(running, busy, {"m": ModelSignals()})
    return Sight(signals, ongoing, running, target or running)


@pytest.mark.parametrize(
    ("name", "seen", "wanted"),
    [
        ("ongoing:2", sight(5.0, 0.0, 1), 3),
        ("ongoing:2", sight(100.0, 0.0, 1), 4),
        ("ongoing:2", sight(5.0, 0.0, 1, target=2), 2),
        ("busy:0.5", sight(0.0, 1.0, 1), 2),
        ("busy:0.5", sight(0.0, 0.52, 1), 1),
        ("fixed:3", sight(0.0, 0.0, 3), 3),
    ],
)
def test_the_usual_rules(name: str, seen: Sight, wanted: int) -> None:
    scaler = named_scaler(name, RULES)
    found = [scaler.decide(float(second), seen) for second in range(3)]
    assert found[-1] == wanted
    if wanted > seen.target:
        assert found[0] == seen.target, "not before the delay"


def test_less_must_do_for_the_whole_delay() -> None:
    scaler = named_scaler("ongoing:2", RULES)
    quiet = [scaler.decide(float(second), sight(0.0, 0.0, 3)) for second in range(5)]
    busy = scaler.decide(5.0, sight(60.0, 0.0, 3))
    again = [scaler.decide(float(second), sight(0.0, 0.0, 3)) for second in range(6, 24)]
    assert quiet == [3] * 5
    assert busy == 3
    assert again[8] == 3
    assert again[-1] == 1


def test_every_default_scaler_exists() -> None:
    for name in DEFAULT:
        assert named_scaler(name, RULES).decide(0.0, sight(0.0, 0.0, 1)) == 1
    assert isinstance(named_scaler("fixed:2", RULES), Fixed)


@pytest.mark.parametrize("name", ["", "signal", "signals:1", "ongoing", "ongoing:x", "ongoing:0", "fixed:0", "busy:-1"])
def test_what_is_no_scaler_is_told(name: str) -> None:
    with pytest.raises(ScalerError, match=r"there are: signals, ongoing:TARGET"):
        named_scaler(name, RULES)
