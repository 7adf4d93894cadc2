import dataclasses
import time

import pytest

from models.compress.errors import Inapplicable
from models.compress.passes import search
from models.compress.passes.search import Search
from models.compress.step import Stage
from tests.support import compress


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "epoch_s", lambda *_: 0.1)
    monkeypatch.setattr(search, "exported", lambda *_: None)
    return compress.bench(*compress.digits_mlp(), tmp_path)


def choices(bench, seconds):
    return Search.choices(bench.original.model(), dataclasses.replace(bench, deadline_s=time.monotonic() + seconds))


def test_one_study_is_proposed_as_large_as_time_allows(bench):
    (unhurried,) = Search.choices(bench.original.model(), bench)
    (long,) = choices(bench, 5000.0)
    (short,) = choices(bench, 200.0)
    assert unhurried == long == Search(40, 150)
    # 100 batches before the first rung of 19 an epoch are 48 epochs, on the ladder 70; 60 s allow 70 * 0.1 s * 5.
    assert short == Search(12, 100)


def test_too_little_time_for_a_study_is_told(bench):
    with pytest.raises(Inapplicable, match="are too short to search for a network"):
        choices(bench, 20.0)


def test_the_step_names_itself_and_its_parameters():
    step = Search(12, 30, latency_share=0.25)
    assert (step.label, Search(12, 30).label) == ("nas.25", "nas")
    assert Search(**{name: value for name, value in step.facts().items() if name != "pass"}) == step
    assert (Search.stage, Search.trains) == (Stage.SOURCE, True)
