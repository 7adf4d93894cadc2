import numpy as np
import pytest

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
    assert weight.costs == (*weight.latency, weight.size_bytes)


def test_other_answers_score_less(bench):
    turned = np.roll(np.eye(linear.CLASSES).repeat(linear.WIDTH // linear.CLASSES, axis=0), 1, axis=1)
    assert weigh(linear.content(0, turned), bench).score < 0.2


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
