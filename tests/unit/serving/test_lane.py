from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.manifest import Budget, Padding, TensorSpec
from serving.config import ConfigError, SchedulerSettings
from serving.core.budget import RequestBudget
from serving.core.errors import Infeasible
from serving.core.latency import LatencyTable
from serving.core.lookahead import LookAhead
from serving.core.outcome import Outcome
from serving.core.request import Request
from serving.lane import Done, Lane, policy_of
from serving.metrics import Metrics, stat
from serving.ports import Execution
from tests.support.gateways import PROFILES, lane_of, tagged_family
from tests.support.tiny_models import profile
from tests.support.views import exact_model


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    metrics = Metrics(tmp_path)
    yield metrics
    metrics.close()


def figure(metrics: Metrics, name: str, **labels: str) -> float:
    metrics.flush()
    return stat(metrics.collect(), name, model="m", version="1", **labels)


def test_a_lane_knows_its_family(metrics: Metrics) -> None:
    lane = lane_of(metrics)
    assert lane.key == "m/1"
    assert [variant.name for variant in lane.variants] == ["small", "large"]
    assert not lane.free_axes
    assert lane.accuracy_known
    assert figure(metrics, "gearshift_variant_ready") == 2


def test_the_default_budget_is_that_of_the_family(metrics: Metrics) -> None:
    default = Budget(latency_ms=250.0, min_accuracy=0.7, max_energy_mj=9.0, prefer="energy")
    lane = lane_of(metrics, tagged_family().model_copy(update={"default_budget": default}))
    assert lane.default_budget == RequestBudget(0.25, 0.7, 9.0, "energy")


def test_what_a_budget_allows_is_asked_again_when_a_table_is_relearnt(metrics: Metrics) -> None:
    lane = lane_of(metrics)
    small_s, large_s = (variant.table.seconds(1) for variant in lane.variants)
    budget = RequestBudget(1.5 * large_s)
    assert lane.eligibility(budget, 1).variants == (0, 1)
    for _ in range(40):
        lane.count_batch(0, 1, Execution({}, small_s, small_s), 0.0)
        lane.count_batch(1, 1, Execution({}, 3 * large_s, 3 * large_s), 0.0)
    assert lane.eligibility(budget, 1).variants == (0,)


def test_free_axes_keep_requests_apart(metrics: Metrics) -> None:
    free = (TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),)
    assert lane_of(metrics, tagged_family().model_copy(update={"inputs": free})).free_axes


def test_inputs_that_are_filled_up_are_known_by_name(metrics: Metrics) -> None:
    padding = Padding(axis=1, buckets=(4, 8))
    inputs = (
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1), padding=padding),
        TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),
    )
    assert lane_of(metrics, tagged_family().model_copy(update={"inputs": inputs})).paddings == {"ids": padding}
    assert lane_of(metrics, tagged_family(version="2")).paddings == {}


def test_equal_contents_are_one_eligibility(metrics: Metrics) -> None:
    lane = lane_of(metrics)
    first = lane.eligibility(RequestBudget(1.0), 1)
    assert lane.eligibility(RequestBudget(0.9), 1) is first
    assert lane.eligibility(RequestBudget(1.0, min_accuracy=0.1), 1) is first
    assert lane.eligibility(RequestBudget(0.005), 1) is not first
    with pytest.raises(Infeasible):
        lane.eligibility(RequestBudget(0.0001), 1)


def test_an_answer_in_time_is_accounted_with_its_accuracy(metrics: Metrics) -> None:
    lane = lane_of(metrics)
    done = Done(rows=3, variant=lane.variants[1], reason="most_accurate", duration_s=0.02, queue_s=0.004)
    lane.count_answer(done, met=True)
    lane.count_answer(replace(done, rows=2), met=False)
    lane.count_end(Outcome.EXPIRED, 5, 0.1)
    assert figure(metrics, "gearshift_outcome_total", outcome="met") == 1
    assert figure(metrics, "gearshift_outcome_total", outcome="late") == 1
    assert figure(metrics, "gearshift_rows_total", outcome="met") == 3
    assert figure(metrics, "gearshift_rows_total", outcome="expired") == 5
    assert figure(metrics, "gearshift_accuracy_total") == pytest.approx(2.7)
    assert figure(metrics, "gearshift_effective_accuracy") == pytest.approx(0.27)
    assert figure(metrics, "gearshift_selection_total", variant="large", reason="most_accurate") == 2
    assert figure(metrics, "gearshift_queue_duration_seconds_sum") == pytest.approx(0.008)
    assert figure(metrics, "gearshift_request_duration_seconds_sum", variant="large") == pytest.approx(0.04)
    assert figure(metrics, "gearshift_request_duration_seconds_count", variant="", outcome="expired") == 1


def test_a_batch_is_learnt_from_and_accounted(metrics: Metrics) -> None:
    lane = lane_of(metrics)
    lane.count_batch(0, 1, Execution({}, compute_s=0.009, service_s=0.002), 0.0)
    assert lane.scheduler.latency.slowdown > 1
    assert figure(metrics, "gearshift_prediction_error_ratio_sum") == pytest.approx(2.0)
    assert figure(metrics, "gearshift_compute_duration_seconds_sum", variant="small") == pytest.approx(0.009)
    assert figure(metrics, "gearshift_batch_rows_sum", variant="small") == 1
    # 2 mJ in 1 ms are 2 W; for 2 ms of service they are 4 mJ.
    assert figure(metrics, "gearshift_energy_joules_total", source="estimate") == pytest.approx(0.004)


def test_energy_nobody_measured_is_not_invented(metrics: Metrics) -> None:
    lane = lane_of(metrics, profiles={"small": profile((1,)), "large": profile((2,))})
    lane.count_batch(0, 1, Execution({}, 0.001, 0.001), 0.0)
    assert figure(metrics, "gearshift_energy_joules_total") == 0


def test_the_queue_is_published(metrics: Metrics) -> None:
    lane = lane_of(metrics)
    waiting = Request(3, 0.0, 1.0, lane.eligibility(RequestBudget(1.0), 3), size_bytes=24)
    lane.scheduler.offer(waiting, 0.0, (0.0,))
    lane.publish_state()
    assert figure(metrics, "gearshift_queue_rows") == 3
    assert figure(metrics, "gearshift_queue_bytes") == 24
    assert figure(metrics, "gearshift_slowdown_ratio") == 1
    lane.scheduler.cancel(waiting)
    lane.publish_state()
    assert figure(metrics, "gearshift_queue_rows") == 0


def test_the_settings_reach_the_policy_and_the_scheduler(metrics: Metrics) -> None:
    settings = SchedulerSettings(utilization=0.5, min_success=0.1, plan_quantile=0.75, energy_weight=0.2)
    lane = Lane(tagged_family(), PROFILES, settings, 77, metrics, batch_overhead_s=0.003)
    assert (lane.scheduler.options.max_bytes, lane.scheduler.options.plan_quantile) == (77, 0.75)
    assert lane.scheduler.options.batch_overhead_s == 0.003
    policy = policy_of(settings).make(lane.variants, exact_model(lane.variants))
    assert isinstance(policy, LookAhead)
    chosen = policy._settings
    assert (chosen.utilization, chosen.min_success, chosen.plan_quantile, chosen.energy_weight) == (0.5, 0.1, 0.75, 0.2)


def test_a_published_policy_comes_without_admission(metrics: Metrics) -> None:
    lane = Lane(tagged_family(), PROFILES, SchedulerSettings(policy="fixed:large"), 77, metrics)
    assert not lane.scheduler.options.admission
    assert lane_of(metrics).scheduler.options.admission


def test_a_policy_that_asks_for_a_variant_nobody_has_stops_the_start(metrics: Metrics) -> None:
    with pytest.raises(ConfigError, match="'huge'.*fastest, most-accurate, small, large"):
        Lane(tagged_family(), PROFILES, SchedulerSettings(policy="fixed:huge"), 77, metrics)


def test_the_tables_are_those_of_the_profiles(metrics: Metrics) -> None:
    lane = lane_of(metrics)
    expected = LatencyTable(PROFILES["large"].rows, PROFILES["large"].seconds)
    np.testing.assert_allclose(
        [lane.variants[1].table.seconds(rows) for rows in range(1, 20)], [expected.seconds(r) for r in range(1, 20)]
    )
