import dataclasses

import onnx
import pytest

from models.compress.cost import multiply_adds
from models.compress.errors import Inapplicable
from models.compress.passes.search import Search
from models.compress.students import study
from models.compress.students.student import StudentSpec
from models.compress.students.study import Found, Study, StudyPlan, choose, goes_on
from models.compress.weigh import Weight
from tests.support import compress

PLAN = StudyPlan(trials=4, epochs=9, batch_rows=64, latency_share=None)


def found(score, latency, rung=3, width=8):
    return Found(StudentSpec("fire", width, 1), rung, score, latency)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Vectors, and a latency that is the share of the multiply-adds: the clock of a busy machine is no witness."""
    original, dataset = compress.digits_mlp()
    whole = multiply_adds(original.model())

    def weigh(content, bench):
        share = multiply_adds(onnx.load_from_string(content)) / whole
        return Weight(0.0, (share, share), len(content))

    monkeypatch.setattr(study, "weigh", weigh)
    return compress.bench(original, dataset, tmp_path)


def test_a_study_chooses_a_network_that_no_other_dominates(bench):
    some = Study(PLAN, bench)
    spec = some.run()
    assert len(some.found) == PLAN.trials
    finished = [each for each in some.found if each.rung == 3]
    chosen = next(each for each in finished if each.spec == spec)
    assert not any(other.dominates(chosen) for other in finished)
    assert all(0.0 < each.latency <= 1.0 for each in some.found)
    # One may be as large as the original: it is looked at, and not trained.
    assert all((each.rung == 0) == (each.latency == 1.0) for each in some.found)


def test_the_network_is_trained_to_the_end_and_the_same_again(bench):
    step = Search(trials=3, epochs=9)
    model = step.apply(bench.original.model(), bench)
    assert bench.score(model) >= 0.85
    assert multiply_adds(model) < multiply_adds(bench.original.model())

    def stop(*_):
        raise AssertionError("trained again")

    again = step.apply(bench.original.model(), dataclasses.replace(bench, progress=stop, known={}))
    assert again.SerializeToString() == model.SerializeToString()


class Killed(Exception):
    pass


def test_a_study_that_was_killed_goes_on_as_if_it_had_not_been(bench, tmp_path):
    whole = Study(PLAN, dataclasses.replace(bench, folder=tmp_path / "whole"))
    expected = whole.run()
    count = 0

    def kill(_what, _share):
        nonlocal count
        count += 1
        # The first network takes 13 epochs and is told, the second gives up after one: this is in the third.
        if count == 17:
            raise Killed

    broken = dataclasses.replace(bench, folder=tmp_path / "broken")
    with pytest.raises(Killed):
        Study(PLAN, dataclasses.replace(broken, progress=kill)).run()
    resumed = Study(PLAN, dataclasses.replace(broken, known={}))
    assert len(resumed.found) == 2
    assert resumed.run() == expected
    assert resumed.found == whole.found
    # What was chosen stays chosen, and nothing is asked of the clock again.
    assert Study(PLAN, dataclasses.replace(broken, deadline_s=0.0)).run() == expected


def test_networks_that_are_too_slow_are_not_trained(bench, monkeypatch):
    monkeypatch.setattr(study, "weigh", lambda content, _bench: Weight(0.0, (1.2, 1.2), len(content)))
    slow = Study(dataclasses.replace(PLAN, trials=2), bench)
    with pytest.raises(Inapplicable, match="no network that is faster than the original"):
        slow.run()
    assert [each.rung for each in slow.found] == [0, 0]


def test_only_the_better_third_goes_on():
    rivals = [found(0.9, 0.2), found(0.8, 0.3), found(0.7, 0.4)]
    # Faster than all, or more accurate than all: nothing dominates it.
    assert goes_on(found(0.5, 0.1), rivals)
    assert goes_on(found(0.95, 0.9), rivals)
    # One of three is ahead, then two.
    assert goes_on(found(0.85, 0.25), rivals)
    assert not goes_on(found(0.75, 0.35), rivals)
    # Who gave up a rung below is no rival.
    assert goes_on(found(0.75, 0.35), [dataclasses.replace(each, rung=1) for each in rivals])


def test_the_choice_weighs_a_point_of_score_against_a_tenth_of_the_latency():
    fast, good, best = found(0.80, 0.1, width=8), found(0.95, 0.3, width=16), found(0.96, 0.6, width=24)
    half_trained = found(0.99, 0.1, rung=2, width=32)
    every = [fast, good, best, half_trained]
    assert choose(every, None, 0.97) == good.spec
    assert choose(every, 0.7, 0.97) == best.spec
    with pytest.raises(Inapplicable, match="no network"):
        choose([found(0.0, 1.4, rung=0)], None, 0.97)
