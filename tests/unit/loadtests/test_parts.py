from heapq import merge
from operator import attrgetter
from pathlib import Path

import pytest

from loadtests.parts import Plan, chosen_classes, read_with_digest, tags_of, task_of
from loadtests.scenario import Scenario, ScenarioError
from loadtests.workload import calls
from tests.support.fake_gateway import METADATA

SCENARIO = Scenario.model_validate({
    "name": "s", "requests": 100, "arrivals": {"kind": "gamma", "cv2": 4.0, "load": 0.1},
    "classes": [
        {"name": "gold", "model": "tiny", "latency_ms": 20.0},
        {"name": "plain", "model": "tiny", "latency_ms": 20.0, "weight": 2.0},
        {"name": "other", "model": "more", "latency_ms": 20.0},
    ],
})  # fmt: skip
MODELS = {"tiny": METADATA, "more": {**METADATA, "name": "more"}}
ALL = frozenset({"gold", "plain", "other"})


def plan(kinds=ALL, place=0, parts=1):
    return Plan(SCENARIO, "", 7, MODELS, kinds, place, parts)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_together_are_the_whole_stream(parts):
    dealt = [list(plan(place=place, parts=parts).calls()) for place in range(parts)]
    whole = list(plan().calls())
    assert len(whole) == 100
    assert list(merge(*dealt, key=attrgetter("at_s"))) == whole
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_leaving_classes_out_moves_nobody_elses_requests():
    gold = list(plan(frozenset({"gold"})).calls())
    assert gold == [call for call in plan().calls() if call.kind == "gold"]
    assert gold


def test_the_load_is_of_what_the_host_tells():
    capacity = dict.fromkeys(MODELS, 2 * 2 / 0.0012)
    expected = [call.at_s for call in calls(SCENARIO, capacity, 7)]
    assert [call.at_s for call in plan().calls()] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tags", "without", "left"),
    [
        (None, None, ALL),
        ([], [], ALL),
        (["gold"], None, {"gold"}),
        (["tiny"], None, {"gold", "plain"}),
        (["tiny"], ["gold"], {"plain"}),
        (None, ["tiny"], {"other"}),
        (["gold", "other"], None, {"gold", "other"}),
    ],
)
def test_tags_choose_classes_by_name_and_model(tags, without, left):
    assert chosen_classes(SCENARIO, tags, without) == left


def test_tags_that_leave_nothing_are_told():
    with pytest.raises(ScenarioError, match="its tags are: gold, more, other, plain, tiny"):
        chosen_classes(SCENARIO, ["nope"], None)


def test_tasks_carry_the_tags_locust_filters_by():
    name, *more = tags_of(SCENARIO)[2]
    task = task_of(name, (name, *more))
    assert task.__name__ == "other"
    assert task.locust_tag_set == {"other", "more"}


def test_processes_know_whether_they_have_the_same_scenario(tmp_path):
    text = (
        'name = "s"\nduration_s = 1\n[arrivals]\nkind = "poisson"\nrate = 1\n'
        '[[classes]]\nname = "k"\nmodel = "m"\nlatency_ms = 1\n'
    )
    first, second = Path(tmp_path / "a.toml"), Path(tmp_path / "b.toml")
    first.write_text(text)
    second.write_text(text)
    assert read_with_digest(str(first), "") == read_with_digest(str(second), None)
    second.write_text(text.replace("rate = 1", "rate = 2"))
    assert read_with_digest(str(first), "")[1] != read_with_digest(str(second), "")[1]
