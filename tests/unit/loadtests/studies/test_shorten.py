from itertools import pairwise
from pathlib import Path

import pytest

from loadtests.scenario import Scenario
from loadtests.studies.shorten import expected_requests, resized
from loadtests.workload import calls
from tests.support.studies import scenario

CAPACITY = {"tiny": 2000.0}


def changing(**more: object) -> Scenario:
    phases = [{"duration_s": 2, "factor": 1}, {"duration_s": 4, "from": 1, "to": 5}]
    arrivals = {"kind": "poisson", "rate": 100, "phases": phases}
    return scenario(**({"requests": None, "arrivals": arrivals} | more))


def test_what_is_expected_comes() -> None:
    for described in (
        changing(),
        changing(duration_s=4),
        changing(duration_s=8),
        scenario(0.2, duration_s=3, requests=None),
    ):
        came = sum(1 for _ in calls(described, CAPACITY, 5))
        assert came == pytest.approx(expected_requests(described, CAPACITY), rel=0.15)
    assert expected_requests(changing(), CAPACITY) == pytest.approx(200 + 1200)
    assert expected_requests(changing(duration_s=8), CAPACITY) == pytest.approx(200 + 1200 + 1000)


def test_phases_keep_their_shares() -> None:
    short = resized(changing(), CAPACITY, 1, 140)
    assert short.end_s == pytest.approx(0.6)
    assert expected_requests(short, CAPACITY) == pytest.approx(140)
    assert expected_requests(resized(changing(), CAPACITY, 2800, 9999), CAPACITY) == pytest.approx(2800)


def test_a_steady_load_ends_sooner_or_later() -> None:
    steady = scenario(0.2, duration_s=3, requests=None)
    assert resized(steady, CAPACITY, 1, 10_000) == steady
    assert resized(steady, CAPACITY, 1, 500).requests == 500
    assert resized(steady, CAPACITY, 4000, 5000).requests == 4000
    assert [resized(scenario(requests=n), CAPACITY, 10, 20).requests for n in (5, 15, 25)] == [10, 15, 20]


def test_a_trace_ends_sooner_and_keeps_its_times(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("".join(f"{at}\n" for at in range(20)))
    traced = scenario(requests=None, arrivals={"kind": "trace", "file": str(file), "compression": 2.0})
    assert expected_requests(traced, CAPACITY) == 20
    found = [call.at_s for call in calls(resized(traced, CAPACITY, 1, 5), CAPACITY)]
    assert len(found) == 5
    assert {right - left for left, right in pairwise(found)} == {0.5}
