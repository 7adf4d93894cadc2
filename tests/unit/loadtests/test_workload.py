from collections import Counter
from itertools import islice, pairwise
from math import sqrt

import pytest

from loadtests.arrivals import CHUNK, TraceError
from loadtests.scenario import Scenario, ScenarioError, read_scenario
from loadtests.workload import Call, calls, capacity_rows_s, request_rate
from serving.core.budget import RequestBudget
from tests.support.views import view

POISSON = {"kind": "poisson", "rate": 1000.0}
PLAIN = {"name": "plain", "model": "fashion", "latency_ms": 20.0}
ALBUM = {"name": "album", "model": "fashion", "latency_ms": 100.0, "weight": 3.0, "rows": {"1": 0.5, "8": 0.5}}


def scenario(*classes, arrivals=POISSON, **more):
    given = {"name": "s", "classes": list(classes), **more}
    if arrivals is not None:
        given["arrivals"] = arrivals
    if "requests" not in given:
        given.setdefault("duration_s", 20.0)
    return Scenario.model_validate(given)


def test_capacity_is_the_fastest_variant_at_its_knee_on_all_workers():
    small = view(0, 0.6, (1, 2, 2, 2), knee_rows=8)
    large = view(1, 0.9, (10, 11, 12, 13), knee_rows=8)
    assert capacity_rows_s((large, small), workers=3) == pytest.approx(3 * 8 / 0.002)
    assert capacity_rows_s((large, small), workers=3, batch_overhead_s=0.002) == pytest.approx(3 * 8 / 0.004)


def test_calls_carry_model_rows_and_the_budget_of_their_class():
    made = list(calls(scenario({**PLAIN, "rows": 4}, requests=3), {}))
    assert [(call.model, call.rows, call.kind) for call in made] == [("fashion", 4, "plain")] * 3
    assert made[0].budget == RequestBudget(latency_s=0.02)
    assert made[0].budget is made[2].budget
    assert isinstance(made[0], Call)


def test_a_scenario_ends_at_its_duration_or_at_its_number_of_requests():
    timed = list(calls(scenario(PLAIN), {}))
    assert len(timed) == pytest.approx(20_000, abs=4.5 * sqrt(20_000))
    assert 19.9 < timed[-1].at_s < 20
    counted = list(calls(scenario(PLAIN, requests=CHUNK + 5), {}))
    assert [call.at_s for call in counted] == [call.at_s for call in timed[: CHUNK + 5]]


def test_classes_and_rows_come_in_their_shares():
    made = list(calls(scenario(PLAIN, ALBUM), {}))
    kinds = Counter(call.kind for call in made)
    assert kinds["album"] / len(made) == pytest.approx(0.75, abs=0.015)
    rows = Counter(call.rows for call in made if call.kind == "album")
    assert set(rows) == {1, 8}
    assert rows[8] / kinds["album"] == pytest.approx(0.5, abs=0.02)
    assert {call.rows for call in made if call.kind == "plain"} == {1}


def test_the_mix_does_not_move_the_arrivals_and_the_seed_moves_everything():
    def times(*classes, seed=None):
        return [call.at_s for call in calls(scenario(*classes), {}, seed)]

    assert times(PLAIN) == times(PLAIN, ALBUM)
    assert times(PLAIN) == times(PLAIN, seed=1)  # the scenario's own
    assert times(PLAIN) != times(PLAIN, seed=2)


def test_sizes_do_not_change_who_calls_and_the_rate_does_not_either():
    def kinds(album, arrivals=POISSON):
        return [call.kind for call in calls(scenario(PLAIN, album, arrivals=arrivals, requests=3 * CHUNK), {})]

    assert kinds(ALBUM) == kinds({**ALBUM, "rows": 2})
    assert kinds(ALBUM) == kinds(ALBUM, {"kind": "gamma", "cv2": 4.0, "rate": 7.0})


def test_the_same_seed_gives_the_same_calls():
    mixed = scenario(PLAIN, ALBUM)
    assert list(calls(mixed, {}, 5)) == list(calls(mixed, {}, 5))


TEXT = {"name": "text", "model": "text", "latency_ms": 250.0, "arrivals": {"kind": "poisson", "load": 0.5}}


def test_streams_are_merged_in_time_and_stay_independent():
    alone = [call.at_s for call in calls(scenario(PLAIN), {})]
    both = list(calls(scenario(PLAIN, TEXT), {"text": 100.0}))
    assert all(a.at_s <= b.at_s for a, b in pairwise(both))
    assert [call.at_s for call in both if call.kind == "plain"] == alone
    texts = sum(call.kind == "text" for call in both)
    assert texts == pytest.approx(1000, abs=4.5 * sqrt(1000))


def test_a_load_is_the_share_of_the_fleets_time_that_the_mix_takes():
    loaded = {"kind": "poisson", "load": 0.6}
    (one,) = scenario(PLAIN, arrivals=loaded).streams()
    assert request_rate(one, {"fashion": 1000.0}) == pytest.approx(600)
    (mix,) = scenario(PLAIN, ALBUM, {**PLAIN, "name": "other", "model": "text"}, arrivals=loaded).streams()
    # Of 5 requests: 1 of one row, 3 of 4.5 rows, 1 text row; at 1000 and 100 rows/s.
    assert request_rate(mix, {"fashion": 1000.0, "text": 100.0}) == pytest.approx(0.6 * 5 / (14.5 / 1000 + 1 / 100))


def test_a_load_without_a_capacity_is_refused_at_once():
    with pytest.raises(ScenarioError, match="the capacity of fashion, text is not known"):
        calls(
            scenario({**PLAIN, "model": "text"}, PLAIN | {"name": "b"}, arrivals={"kind": "poisson", "load": 1.0}), {}
        )


def traced(tmp_path, speed, text="at\n100\n101\n104\n"):
    (tmp_path / "t.csv").write_text(text)
    file = tmp_path / "s.toml"
    file.write_text(
        f'name = "s"\n[arrivals]\nkind = "trace"\nfile = "t.csv"\n{speed}\n'
        '[[classes]]\nname = "a"\nmodel = "fashion"\nlatency_ms = 20\n'
    )
    return read_scenario(file)


@pytest.mark.parametrize(
    ("speed", "times"),
    [
        ("compression = 2", [0, 0.5, 2]),
        ("rate = 1", [0, 0.5, 2]),  # as recorded: 2 gaps in 4 s
        ("load = 0.05", [0, 0.1, 0.4]),
        ("compression = 2\ncolumn = 'at'", [0, 0.5, 2]),
    ],
)
def test_a_trace_is_replayed_as_fast_as_asked_and_ends_by_itself(tmp_path, speed, times):
    replayed = traced(tmp_path, speed)
    assert [call.at_s for call in calls(replayed, {"fashion": 100.0})] == pytest.approx(times)
    (stream,) = replayed.streams()
    assert request_rate(stream, {"fashion": 100.0}) == pytest.approx(2 / times[-1])


def test_a_bad_trace_is_refused_at_once(tmp_path):
    with pytest.raises(TraceError, match="line 3: 'x' is not"):
        calls(traced(tmp_path, "compression = 2", "at\n1\nx\n"), {})
    with pytest.raises(ScenarioError, match="all its requests come at the same time"):
        calls(traced(tmp_path, "rate = 2", "at\n1\n1\n"), {})


def test_calls_are_made_as_they_are_asked_for():
    endless = scenario(PLAIN, requests=10**12)
    assert len(list(islice(calls(endless, {}), 10))) == 10
