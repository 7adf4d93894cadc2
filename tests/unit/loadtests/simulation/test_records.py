import pytest

from loadtests.simulation.pool import Batch
from loadtests.simulation.records import CODE, Records
from loadtests.simulation.served import Served
from serving.core.outcome import Outcome
from tests.support.durations import durations_of
from tests.support.views import view

SERVED = Served(
    "tiny",
    (view(0, 0.6, (1, 2), energy_mj=10.0), view(1, 0.9, (10, 20), energy_mj=200.0)),
    durations_of({"v0": (1, 2), "v1": (10, 20)}, rows=(1, 2)),
)


@pytest.fixture
def records() -> Records:
    """Met by either variant, late, refused, infeasible and expired."""
    records = Records()
    for kind, rows in enumerate((1, 3, 2, 1, 1, 2)):
        records.arrived(kind / 10, kind % 2, 0, rows)
    records.ended(0, CODE[Outcome.MET], 0, 0.001)
    records.ended(1, CODE[Outcome.MET], 1, 0.002)
    records.ended(2, CODE[Outcome.LATE], 1, 0.005)
    records.ended(3, CODE[Outcome.REJECTED])
    records.refused_for_ever(4)
    records.ended(5, CODE[Outcome.EXPIRED])
    for variant, rows, seconds in ((0, 1, 0.002), (1, 5, 0.06)):
        records.ran(Batch(0, 0, variant, (), rows, 0, 0.05 * rows, service_s=seconds))
    records.decision_s.extend([1e-5] * 99 + [2e-5])
    return records


def test_every_row_counts_in_the_shares(records: Records) -> None:
    found = records.metrics([SERVED])
    assert (found.requests, found.rows) == (6, 10)
    assert found.attainment == pytest.approx(0.4)
    assert found.served_accuracy == pytest.approx((0.6 + 3 * 0.9) / 4)
    assert found.effective_accuracy == pytest.approx((0.6 + 3 * 0.9) / 10)
    assert (found.rejected, found.infeasible, found.expired, found.late) == (2, 1, 1, 1)
    assert found.variant_rows == {"tiny": {"v0": 1, "v1": 3}}


def test_latency_is_that_of_answers(records: Records) -> None:
    found = records.metrics([SERVED])
    assert found.p50_ms == pytest.approx(2)
    assert found.p99_ms == pytest.approx(5, rel=0.02)


def test_batches_cost_time_and_energy(records: Records) -> None:
    found = records.metrics([SERVED])
    assert (found.batches, found.mean_batch_rows) == (2, 3)
    assert found.cpu_s == pytest.approx(0.062)
    # 10 mJ in 1 ms are 10 W, 200 mJ in 10 ms are 20 W.
    assert found.energy_mj == pytest.approx(10 * 2 + 20 * 60)
    assert 10 < found.decision_p99_us <= 20


def test_a_window_leaves_out_what_came_before(records: Records) -> None:
    found = records.metrics([SERVED], since_s=0.15)
    assert (found.requests, found.attainment, found.late, found.infeasible) == (4, 0.0, 1, 1)
    assert found.batches == 1


def test_a_class_is_counted_by_itself(records: Records) -> None:
    found = records.metrics([SERVED], kind=1)
    assert (found.requests, found.rows, found.rejected, found.infeasible) == (3, 6, 1, 0)


def test_nothing_came(records: Records) -> None:
    found = records.metrics([SERVED], since_s=9.0)
    assert (found.requests, found.attainment, found.p99_ms, found.mean_batch_rows) == (0, 1.0, 0.0, 0.0)
    assert Records().metrics([SERVED]).decision_p99_us == 0.0


def test_a_request_ends_once(records: Records) -> None:
    with pytest.raises(ValueError, match="request 0 ended as met, and again"):
        records.ended(0, CODE[Outcome.EXPIRED])


def test_what_has_not_ended_is_counted(records: Records) -> None:
    assert records.open == 0
    records.arrived(1.0, 0, 0, 1)
    assert records.open == 1
