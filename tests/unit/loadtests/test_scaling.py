import pytest

from loadtests.scaling import ScalingTask, run_scaling, scaler_rows
from loadtests.scenario import Scenario, ScenarioError
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions
from tests.support.durations import durations_of
from tests.support.views import small_and_large

TINY = Served("m", small_and_large(), durations_of({"v0": (1, 2, 4, 8), "v1": (10, 20, 40, 80)}))
STEP = {
    "name": "step",
    "arrivals": {
        "kind": "poisson",
        "rate": 40.0,
        "phases": [{"duration_s": 4, "factor": 1}, {"duration_s": 14, "factor": 5}, {"duration_s": 18, "factor": 1}],
    },
    "classes": [{"name": "plain", "model": "m", "latency_ms": 200}],
    "fleet": {"workers": 1},
}
RULES = {"max_replicas": 4, "start_s": 3, "window_s": 4, "up_delay_s": 2, "down_delay_s": 8, "down_cooldown_s": 2}


def scenario(**autoscaling: object) -> Scenario:
    return Scenario.model_validate(STEP | {"autoscaling": autoscaling} if autoscaling else STEP)


def task(seed: int, *scalers: str, asked: Scenario | None = None) -> ScalingTask:
    return ScalingTask(asked or scenario(**RULES), (TINY,), scalers, seed, Assumptions(batch_overhead_s=0.0))


def test_every_scaler_meets_the_same_requests_and_has_a_row_over_all_seeds() -> None:
    runs = [
        run
        for of in run_scaling([task(1, "signals", "fixed:1", "fixed:4"), task(2, "signals", "fixed:1", "fixed:4")], 1)
        for run in of
    ]
    for seed in (1, 2):
        assert len({run.requests for run in runs if run.seed == seed}) == 1
    rows = {row.scaler: row for row in scaler_rows(runs)}
    assert list(rows) == ["fixed:4", "signals", "fixed:1"], "the most accurate first"
    assert rows["fixed:1"].replica_s.mean < rows["signals"].replica_s.mean < rows["fixed:4"].replica_s.mean
    assert rows["signals"].course[0] == (0, 1)
    assert max(replicas for _, replicas in rows["signals"].course) == 3
    assert rows["signals"].course[-1][1] == 1
    assert rows["fixed:4"].changes == 0


def test_a_run_is_told_again_alike() -> None:
    assert list(run_scaling([task(3, "signals")], 1)) == list(run_scaling([task(3, "signals")], 1))


def test_without_the_table_there_is_nothing_to_scale() -> None:
    with pytest.raises(ScenarioError, match=r"no \[autoscaling\] table"):
        list(run_scaling([task(1, "signals", asked=scenario())], 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "max_replicas is below min_replicas"),
        ({"autoscaling": {"max_replica": 2}}, "did you mean 'max_replicas'"),
        ({"autoscaling": RULES, "fleet": {"topology": "split"}}, "colocated"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenario.model_validate(STEP | change)
