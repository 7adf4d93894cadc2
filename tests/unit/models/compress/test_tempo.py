import numpy as np
import pytest

from models.compress import tempo as tempo_module
from models.compress.dataset import Rows, split
from models.compress.store import Store
from models.compress.tempo import CHOOSING_S, ENOUGH_S, LEAST_CHOOSING_ROWS, choosing_rows, drawn, tempo_of
from models.compress.workshop import Workshop
from tests.support import linear


@pytest.mark.parametrize(
    ("row_s", "there", "rows"),
    [
        (CHOOSING_S / 1500, 6000, 1024),
        (CHOOSING_S / 2047, 6000, 1024),
        (CHOOSING_S / 5000, 4096, 4096),
        (CHOOSING_S / 10, 6000, LEAST_CHOOSING_ROWS),
        (CHOOSING_S / 10, 300, 300),
        (0.0, 6000, 6000),
    ],
)
def test_as_many_rows_as_fit_in_powers_of_two_or_all(row_s, there, rows):
    assert choosing_rows(row_s, there) == rows


def test_the_pace_is_that_of_a_trial_long_enough(monkeypatch):
    """At 1 ms a row; a clock that stands still but for the scoring."""
    original, _ = linear.made()
    data = split(linear.rows(2000))
    asked, seen = [], {"s": 0.0}

    def scores_of(session, output, rows):
        asked.append(len(rows))
        seen["s"] += 0.001 * len(rows)

    monkeypatch.setattr(tempo_module, "scores_of", scores_of)
    found = tempo_of(original, data.train, lambda: seen["s"])
    assert asked == [64, 128, 256, 512]
    assert 0.001 * asked[-2] < ENOUGH_S <= 0.001 * asked[-1]
    assert found.row_s == pytest.approx(0.001)
    assert found.choosing_rows == choosing_rows(0.001, len(data.train))


def test_rows_are_drawn_from_all_and_stay_in_order():
    rows = Rows({"x": np.arange(1000)}, np.arange(1000))
    some = drawn(rows, 100, seed=3)
    assert len(some) == len(set(some.labels)) == 100
    assert list(some.labels) == sorted(some.labels)
    assert some.labels.max() > 800, "not the first ones"
    np.testing.assert_array_equal(some.inputs["x"], some.labels)
    np.testing.assert_array_equal(drawn(rows, 100, seed=3).labels, some.labels)
    assert drawn(rows, 1000, seed=3) is rows


def test_a_slow_original_is_compared_on_fewer_rows_and_the_same_ones_next_time(tmp_path, monkeypatch):
    original, _ = linear.made()
    data = split(linear.rows(8000))
    assert len(data.validation) > LEAST_CHOOSING_ROWS

    def workshop():
        return Workshop(original, data, Store(tmp_path), seed=0, threads=1, progress=lambda *_: None)

    monkeypatch.setattr(tempo_module, "CHOOSING_S", 0.0)
    slow = workshop()
    assert slow.tempo.choosing_rows == LEAST_CHOOSING_ROWS
    assert slow.identity[-1] == LEAST_CHOOSING_ROWS
    seen = []
    monkeypatch.setattr("models.compress.workshop.weigh", lambda content, bench: seen.append(bench.validation) or Facts)
    slow.weigh((), original.content)
    np.testing.assert_array_equal(seen[0].labels, data.validation.labels[:LEAST_CHOOSING_ROWS])
    monkeypatch.setattr(tempo_module, "CHOOSING_S", 1e9)
    assert workshop().tempo == slow.tempo, "remembered: what was compared before stays comparable"


class Facts:
    @staticmethod
    def facts():
        return {}
