from dataclasses import replace

import numpy as np
import pytest

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


def test_latency_is_a_ratio_to_the_original(bench):
    """Four hundred more operators take many times longer, whatever the host does: the two run in turns."""
    slow = linear.content(repeats=400)
    assert min(weigh(slow, bench).latency) > 3


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
