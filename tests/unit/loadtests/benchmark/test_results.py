import json
import math

import pytest

from loadtests.benchmark.load import LoadResult
from loadtests.benchmark.results import Cell, Failure, Results, Sample, Spread, save_text

CELL = Cell("peer", "json", 16)


def results(*samples):
    made = Results("python -m loadtests.bench", {"CPU": "x"}, {"servers": {"peer": "a peer"}})
    for sample in samples:
        made.add(CELL, sample)
    return made


def sample(repeat=1, requests=1000, cpu_s=0.5, errors=None, warmup=None, p50_s=0.001):
    return Sample(repeat, LoadResult(requests, 2.0, p50_s, 0.01, errors or {}), cpu_s, warmup or {})


def test_a_summary_is_the_median_with_the_spread_of_the_repeats():
    summary = results(sample(1, 1000), sample(2, 4000), sample(3, 2000)).summary(CELL)
    assert summary.repeats == 3
    assert summary.rps == Spread(1000.0, 500.0, 2000.0)
    assert summary.cpu_us == Spread(250.0, 125.0, 500.0)


def test_errors_of_window_and_warm_up_add_up():
    summary = results(sample(errors={"read": 1}), sample(warmup={"read": 2, "status": 5})).summary(CELL)
    assert summary.errors == {"read": 3, "status": 5}


def test_a_window_without_answers_leaves_the_latency_to_the_others():
    summary = results(sample(requests=0, p50_s=math.nan), sample(p50_s=0.004)).summary(CELL)
    assert summary.p50_s == Spread(0.004, 0.004, 0.004)
    assert summary.rps.low == 0.0
    assert math.isnan(Spread.of([math.nan]).median)


@pytest.mark.parametrize(
    "made",
    [
        results(sample(errors={"status": 1})),
        results(sample(warmup={"connect": 1})),
        results(sample(requests=0)),
    ],
)
def test_errors_and_silence_are_not_sound(made):
    assert not made.sound


def test_a_failed_server_is_not_sound_and_a_clean_run_is():
    made = results(sample())
    assert made.sound
    made.failures.append(Failure("peer", 1, "no"))
    assert not made.sound


def test_the_json_file_holds_samples_summary_and_failures_and_no_nan(tmp_path):
    made = results(sample(requests=0, p50_s=math.nan), sample(errors={"read": 1}))
    made.failures.append(Failure("other", 2, "not ready"))
    path = tmp_path / "deep" / "bench.json"
    made.save_json(path)
    read = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert read["schema_version"] == 1
    assert read["complete"] is False
    (cell,) = read["cells"]
    assert (cell["server"], cell["body_format"], cell["connections"]) == ("peer", "json", 16)
    assert cell["samples"][0]["load"]["p50_s"] is None
    assert cell["samples"][1]["load"]["errors"] == {"read": 1}
    assert cell["samples"][1]["cpu_us_per_request"] == 500.0
    assert cell["summary"]["rps"]["high"] == 500.0
    assert read["failures"] == [{"server": "other", "repeat": 2, "reason": "not ready"}]


def test_saving_replaces_and_leaves_no_draft(tmp_path):
    path = tmp_path / "page.md"
    save_text(path, "one")
    save_text(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
