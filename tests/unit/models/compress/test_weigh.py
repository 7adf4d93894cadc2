from dataclasses import replace

import numpy as np
import pytest

from models.compress import weigh as weighing
from models.compress.frontier import dominates
from models.compress.weigh import BATCHES, Weight, weigh, weight_from
from models.compress.workbench import Workbench
from models.session import ModelLoadError
from tests.support import linear


@pytest.fixture
def bench(tmp_path):
    original, data = linear.made()
    return Workbench(original, data.train, data.validation, tmp_path)


def test_a_weight_tells_right_answers_latency_and_bytes(bench):
    weight = weigh(bench.original.content, bench)
    right = bench.original.scores(bench.validation).argmax(axis=1) == bench.validation.labels
    assert weight.score == right.mean() < 1
    assert weight.size_bytes == len(bench.original.content)
    assert len(weight.latency) == len(BATCHES)
    assert min(weight.latency) > 0
    assert weight.divergence == pytest.approx(0.0, abs=1e-6)
    assert weight.costs == (*weight.latency, weight.size_bytes, 1.0 + weight.divergence)


def test_other_answers_score_less(bench):
    turned = np.roll(np.eye(linear.CLASSES).repeat(linear.WIDTH // linear.CLASSES, axis=0), 1, axis=1)
    other = weigh(linear.content(0, turned), bench)
    assert other.score < 0.2
    assert other.divergence > 0.1


def test_latency_is_a_ratio_to_the_original(bench, monkeypatch):
    """The median over turns, in each of which the two run one after the other on the same rows."""
    seen = []

    def least_s(session, batch):
        theirs = session is bench.original.session
        seen.append((theirs, len(next(iter(batch.values())))))
        busy = 10.0 if len(seen) in (3, 4) else 1.0  # a busy moment of the host touches both
        return busy * (0.002 if theirs else 0.006)

    monkeypatch.setattr(weighing, "_least_s", least_s)
    assert weigh(bench.original.content, bench).latency == pytest.approx([3.0] * len(BATCHES))
    turns = [(theirs, rows) for rows in BATCHES for _ in range(weighing.TURNS) for theirs in (True, False)]
    assert seen == turns


def test_a_turn_tells_the_least_time_of_its_runs(bench, monkeypatch):
    ticks = iter([0.0, 0.0005, 1.0, 1.003, 2.0, 2.001, 3.0, 3.002])
    monkeypatch.setattr(weighing.time, "perf_counter", lambda: next(ticks))
    session = bench.original.session
    assert weighing._least_s(session, bench.train.take(slice(0, 1)).inputs) == pytest.approx(0.001), "not the first"
    assert list(ticks) == []


def test_of_a_long_run_one_is_enough(bench, monkeypatch):
    ticks = iter([0.0, weighing.LONG_S + 0.1])
    monkeypatch.setattr(weighing.time, "perf_counter", lambda: next(ticks))
    batch = bench.train.take(slice(0, 1)).inputs
    assert weighing._least_s(bench.original.session, batch) == pytest.approx(weighing.LONG_S + 0.1)


@pytest.mark.parametrize(("run_s", "turns"), [(0.001, weighing.TURNS), (0.04, 7), (0.06, 5), (1.0, 3)])
def test_long_turns_are_fewer(bench, monkeypatch, run_s, turns):
    seen = []
    monkeypatch.setattr(weighing, "_least_s", lambda session, batch: seen.append(session) or run_s)
    weighing._ratio(bench.original.session, bench, 1)
    assert len(seen) == 2 * turns


def test_plain_facts_give_the_weight_back(bench):
    weight = Weight(0.5, (0.25, 0.5), 1234)
    assert weight_from(weight.facts()) == weight
    with pytest.raises(KeyError):
        weight_from({"score": 1.0})


def test_no_model_is_no_weight(bench):
    with pytest.raises(ModelLoadError, match="cannot load it"):
        weigh(b"no model", bench)


def test_of_candidates_that_are_equally_often_right_the_one_unlike_the_original_does_not_beat_the_other() -> None:
    alike = Weight(0.9889, (1.0, 1.0), 30_000, divergence=0.001)
    unlike = Weight(0.9889, (0.2, 0.2), 1_000, divergence=0.2)
    assert not dominates(unlike, alike)
    same = replace(unlike, divergence=0.001)
    assert dominates(same, alike)
