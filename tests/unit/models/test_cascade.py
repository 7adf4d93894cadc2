from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cascade import CUT_SHORT, SURE, WENT_ON, CascadeRunner, composed, confidence
from models.manifest import ESCALATED, Cascade, LatencyProfile
from models.session import Tensor

PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [0.4, 0.4, 0.2]])


def rule(**changes: Any) -> Cascade:
    return Cascade(first="a", then="b", output="p", threshold=0.5, escalation=0.2, **changes)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Double:
    """Scores that follow from the inputs, told apart by `mark`; each run takes `seconds`."""

    def __init__(self, clock: Clock, mark: float, seconds: float) -> None:
        self.clock, self.mark, self.seconds = clock, mark, seconds
        self.asked: list[int] = []

    def run(self, inputs: Mapping[str, Tensor], budget_s: float = inf) -> dict[str, Tensor]:
        self.asked.append(len(inputs["sure"]))
        self.clock.now_s += self.seconds
        sure = inputs["sure"]
        marks = np.full(len(sure), self.mark)
        return {"p": np.stack([sure, 1 - sure], axis=1), "who": marks + inputs["id"]}


def runner(then_s: float = 0.0) -> tuple[CascadeRunner, Double, Double]:
    clock = Clock()
    first, then = Double(clock, 100.0, 1.0), Double(clock, 200.0, then_s)
    return CascadeRunner(first, then, rule(confidence="max", scores="probabilities"), clock), first, then


def batch(sure: list[float]) -> dict[str, Tensor]:
    return {"sure": np.array(sure), "id": np.arange(len(sure), dtype=float)}


@given(st.lists(st.sampled_from([0.1, 0.45, 0.55, 0.9]), min_size=1, max_size=12), st.floats(0.0, 1.0))
def test_unsure_rows_get_the_second_answer_in_their_own_places(sure: list[float], threshold: float) -> None:
    clock = Clock()
    first, then = Double(clock, 100.0, 0.0), Double(clock, 200.0, 0.0)
    cascade = Cascade(first="a", then="b", output="p", confidence="max", threshold=threshold, escalation=0.5)
    found = CascadeRunner(first, then, cascade, clock).run(batch(sure))
    for row, value in enumerate(sure):
        unsure = max(value, 1 - value) < threshold
        assert found["who"][row] == (200 if unsure else 100) + row
        assert found[ESCALATED][row] == (WENT_ON if unsure else SURE)
    unsure_rows = sum(max(value, 1 - value) < threshold for value in sure)
    assert then.asked == ([unsure_rows] if unsure_rows else [])


def test_without_time_the_first_answer_stands() -> None:
    clock = Clock()
    first, then = Double(clock, 100.0, 1.0), Double(clock, 200.0, 4.0)
    cascade = CascadeRunner(first, then, rule(confidence="margin"), clock)
    assert cascade.run(batch([0.6, 0.99]))[ESCALATED].tolist() == [WENT_ON, SURE]
    # What the second takes is known now: 4 s, and a quarter more for noise.
    assert cascade.run(batch([0.6, 0.99]), budget_s=5.9)[ESCALATED].tolist() == [CUT_SHORT, SURE]
    assert cascade.run(batch([0.6, 0.99]), budget_s=6.1)[ESCALATED].tolist() == [WENT_ON, SURE]
    assert then.asked == [1, 1]


def test_a_first_answer_that_took_all_the_time_ends_it() -> None:
    cascade, _, then = runner()
    assert cascade.run(batch([0.5 - 1e-9]), budget_s=0.5)[ESCALATED].tolist() == [SURE]
    found = CascadeRunner(Double(clock := Clock(), 100.0, 1.0), then, rule(confidence="margin"), clock).run(
        batch([0.5]), budget_s=0.5
    )
    assert found[ESCALATED].tolist() == [CUT_SHORT]
    assert then.asked == []


def test_confidence_of_probabilities() -> None:
    np.testing.assert_allclose(confidence(PROBABILITIES, rule(confidence="max")), [0.5, 0.9, 0.4])
    np.testing.assert_allclose(confidence(PROBABILITIES, rule(confidence="margin")), [0.2, 0.85, 0.0], atol=1e-12)


@pytest.mark.parametrize("kind", ["max", "margin"])
def test_logits_are_made_probabilities(kind: Any) -> None:
    logits = np.log(PROBABILITIES) + np.array([[800.0], [-800.0], [0.0]])
    expected = confidence(PROBABILITIES, rule(confidence=kind))
    np.testing.assert_allclose(confidence(logits, rule(confidence=kind, scores="logits")), expected, atol=1e-9)


def test_a_row_that_is_not_finite_is_unsure() -> None:
    scores = np.array([[np.nan, 1.0], [np.inf, 0.0], [1.0, 0.0]], np.float32)
    for scale in ("probabilities", "logits"):
        found = confidence(scores, rule(confidence="max", scores=scale))
        assert found[:2].tolist() == [0.0, 0.0]
        assert found[2] > 0.5


def test_one_class_is_always_sure() -> None:
    assert confidence(np.array([[1.0]]), rule(confidence="margin")).tolist() == [1.0]


def test_the_profile_is_the_first_and_the_mean_of_the_second() -> None:
    first = LatencyProfile(rows=(1, 2), seconds=(1.0, 1.5), energy_mj_per_row=3.0, energy_source="estimate")
    then = LatencyProfile(rows=(1, 2, 4), seconds=(10.0, 16.0, 30.0), energy_mj_per_row=20.0)
    found = composed(first, then, 0.25)
    assert found.rows == (1, 2)
    assert found.seconds == pytest.approx((1.0 + 0.25 * 10.0, 1.5 + 2 * 0.25 * 0.75 * 10.0 + 0.0625 * 16.0))
    assert (found.energy_mj_per_row, found.energy_source) == (8.0, "estimate")
    assert composed(first, then, 0.0).seconds == first.seconds
    assert composed(first, then, 1.0).seconds == (11.0, 17.5)


def test_large_batches_use_the_mean_count() -> None:
    line = LatencyProfile(rows=(1, 256), seconds=(1.0, 256.0))
    free = LatencyProfile(rows=(1, 64, 128, 256), seconds=(1e-9, 1e-9, 1e-9, 1e-9))
    # Of a straight line the mean is exact: both ways must agree where they meet.
    assert composed(free, line, 0.5).seconds[1:] == pytest.approx((32.0, 64.0, 128.0))


def test_sizes_the_second_was_not_measured_at_are_left_out() -> None:
    first = LatencyProfile(rows=(1, 2, 4), seconds=(1.0, 1.0, 1.0))
    assert composed(first, LatencyProfile(rows=(1, 2), seconds=(1.0, 2.0)), 0.5).rows == (1, 2)
