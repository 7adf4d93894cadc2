import pytest

from loadtests.answers import UNSENT, Answer, Attempt
from loadtests.documents import write_document
from loadtests.live import TOO_FEW, TOO_LATE, LiveError, live_run, read_live_run
from loadtests.samples import Samples
from loadtests.scenario import Scenario
from loadtests.workload import Call
from tests.support.fake_gateway import METADATA

SCENARIO = Scenario.model_validate({
    "name": "s", "duration_s": 10.0, "arrivals": {"kind": "poisson", "rate": 1.0},
    "classes": [
        {"name": "plain", "model": "tiny", "latency_ms": 20.0},
        {"name": "album", "model": "tiny", "latency_ms": 100.0},
    ],
})  # fmt: skip
FACTS = {"scenario_sha256": "0", "seed": 1, "host": "http://h", "started": "now", "command": "c"}


def run(*attempts, **more):
    samples = Samples()
    names = [entry.name for entry in SCENARIO.classes]
    for at_s, kind, rows, answer, latency_s, lag_s in attempts:
        budget = SCENARIO.classes[names.index(kind)].budget()
        samples.add(
            Attempt(Call(at_s, "tiny", rows, budget, kind), answer, latency_s, lag_s),
            names.index(kind),
            ("large", "small"),
        )
    given = {"models": {"tiny": METADATA}, "capacity": {"tiny": 1.0}, "processes": 1, **FACTS, **more}
    return live_run(samples, SCENARIO, **given)


MIXED = (
    (3.0, "plain", 1, Answer(429, "429: no"), 0.001, 0.0),
    (0.0, "plain", 1, Answer(200, "", "large", 2, 0.003), 0.010, 0.0),
    (1.0, "plain", 1, Answer(200, "", "large", 2, 0.003), 0.030, 0.0),
    (2.0, "album", 2, Answer(200, "", "small", 2, 0.001), 0.050, 0.001),
    (4.0, "plain", 1, Answer(504, "504: no"), 0.020, 0.0),
    (5.0, "plain", 1, Answer(422, "422: never"), 0.001, 0.0),
    (6.0, "plain", 1, Answer(0, "no connection"), 0.001, 0.0),
)


def test_the_same_metrics_as_a_simulation_has():
    live = run(*MIXED)
    told = live.metrics
    assert (told.requests, told.rows) == (7, 8)
    assert told.attainment == pytest.approx(3 / 8)
    assert told.served_accuracy == pytest.approx((0.9 + 2 * 0.6) / 3)
    assert told.effective_accuracy == pytest.approx((0.9 + 2 * 0.6) / 8)
    assert (told.rejected, told.infeasible, told.expired, told.late) == (2, 1, 1, 1)
    assert told.variant_rows == {"tiny": {"large": 1, "small": 2}}
    assert told.p50_ms == pytest.approx(30)
    assert live.failed == 1
    assert live.problems == {"no connection": 1, "422: never": 1}
    assert (live.by_class["plain"].requests, live.by_class["album"].requests) == (6, 1)


def test_batches_are_counted_by_shares():
    told = run(*MIXED).metrics
    assert told.batches == 2, "two halves and a whole"
    assert told.mean_batch_rows == pytest.approx(2)
    assert told.cpu_s == pytest.approx(0.003 + 0.001)
    assert told.energy_mj == pytest.approx(10 * 0.003 * 1e3)


def test_requests_stand_in_the_order_of_their_intended_sends():
    live = run(*MIXED)
    assert live.requests["at_s"] == [0, 1, 2, 3, 4, 5, 6]
    assert live.requests["kind"] == [0, 0, 1, 0, 0, 0, 0]


def test_a_warm_up_can_be_left_out():
    live = run(*MIXED)
    assert live.metrics_since(0.0) == live.metrics
    later = live.metrics_since(2.0)
    assert (later.requests, later.attainment) == (5, pytest.approx(2 / 6))
    assert later.batches == 1


def test_a_file_is_read_as_it_was_written(tmp_path):
    live = run(*MIXED, ended="cut short")
    write_document(live, tmp_path / "new" / "live.json")
    again = read_live_run(tmp_path / "new" / "live.json")
    assert again == live
    assert (again.complete, again.ended, again.valid) == (False, "cut short", False)
    result = again.result()
    assert result.metrics().attainment == live.metrics.attainment
    assert result.metrics(kind="album").requests == 1
    assert result.busy_share == pytest.approx(0.004 / (6.001 * 2))


@pytest.mark.parametrize("text", [None, "", "{}", '{"format": 1}', "[]"])
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "live.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LiveError, match=r"live\.json"):
        read_live_run(file)


def test_a_column_that_is_too_short_is_refused(tmp_path):
    live = run(*MIXED)
    file = tmp_path / "live.json"
    file.write_text(live.model_copy(update={"requests": {**live.requests, "rows": [1]}}).model_dump_json())
    with pytest.raises(LiveError, match="equal length"):
        read_live_run(file)


def test_a_generator_that_keeps_up_is_valid():
    good = Answer(200, "", "large", 1, 0.002)
    live = run(*((float(at), "plain", 1, good, 0.004, 0.0019) for at in range(10)))
    assert live.valid
    assert live.sender.lag_p99_share == pytest.approx(0.095)
    assert live.sender.lag_p99_ms == pytest.approx(1.9)


def test_a_generator_that_sends_late_is_told_what_to_do():
    good = Answer(200, "", "large", 1, 0.002)
    live = run(*((float(at), "plain", 1, good, 0.004, 0.0021) for at in range(10)))
    assert not live.valid
    assert live.sender.advice == TOO_LATE
    patient = run(*((float(at), "album", 1, good, 0.004, 0.0021) for at in range(10)))
    assert patient.valid, "a longer budget bears it"


def test_a_generator_that_could_not_send_is_told_what_to_do():
    live = run((0.0, "plain", 1, UNSENT, 0.02, 0.02))
    assert live.sender.unsent == 1
    assert live.sender.advice == TOO_FEW


def test_a_run_without_requests():
    live = run()
    assert live.metrics.requests == 0
    assert live.metrics.attainment == 1
    assert live.result().ended_s == 0
