"""Cascades: a quick variant answers, and an accurate one is asked about the rows the quick one is unsure of.

The rule is the IDK cascade of Wang et al., "IDK Cascades: Fast Deep Learning by Learning not to Overthink", UAI 2018,
with a threshold on the confidence of the first model.
"""

import time
from collections.abc import Callable, Mapping
from math import comb, inf
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.manifest import ESCALATED, Cascade, LatencyProfile
from models.session import Tensor

SURE, WENT_ON, CUT_SHORT = 0, 1, 2
"""What became of a row: the first answer stands; the second stands; the first stands for want of time."""
USUAL_WEIGHT = 0.2
"""Weight of the newest run in what the second variant usually takes a row."""
SLACK_FACTOR = 1.25
"""Room for noise in the time the second variant is expected to take."""
MANY_ROWS = 64
"""From here the number of rows that go on is close enough to its mean."""


class _Runner(Protocol):
    def run(self, inputs: Mapping[str, Tensor], budget_s: float = inf) -> dict[str, Tensor]: ...


class CascadeRunner:
    """Two variants as one. Adds the output `ESCALATED`: [rows], one of `SURE`, `WENT_ON`, `CUT_SHORT` each."""

    waits = False

    def __init__(
        self, first: _Runner, then: _Runner, rule: Cascade, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._first = first
        self._then = then
        self._rule = rule
        self._clock = clock
        self._usual_s: dict[int, float] = {}
        """What the second variant takes, by the power of two its rows are rounded up to."""

    def run(self, inputs: Mapping[str, Tensor], budget_s: float = inf) -> dict[str, Tensor]:
        """See `models.runner.Runner.run`. Where `budget_s` leaves no time for the second variant, the first answers."""
        started_s = self._clock()
        outputs = dict(self._first.run(inputs))
        unsure = confidence(outputs[self._rule.output], self._rule) < self._rule.threshold
        fate = np.full(len(unsure), SURE, np.uint8)
        outputs[ESCALATED] = fate
        count = int(np.count_nonzero(unsure))
        if count == 0:
            return outputs
        left_s = budget_s - (self._clock() - started_s)
        if self._expected_s(count) * SLACK_FACTOR > left_s:
            fate[unsure] = CUT_SHORT
            return outputs
        fate[unsure] = WENT_ON
        before_s = self._clock()
        second = self._then.run({name: array[unsure] for name, array in inputs.items()}, left_s)
        self._remember(count, self._clock() - before_s)
        for name, array in outputs.items():
            if name != ESCALATED and name in second:
                outputs[name] = _put(array, unsure, second[name])
        return outputs

    def _expected_s(self, rows: int) -> float:
        """Nothing is known before the first time: then it is tried."""
        return self._usual_s.get((rows - 1).bit_length(), 0.0)

    def _remember(self, rows: int, took_s: float) -> None:
        size = (rows - 1).bit_length()
        usual_s = self._usual_s.get(size, took_s)
        self._usual_s[size] = usual_s + USUAL_WEIGHT * (took_s - usual_s)


def confidence(scores: Tensor, rule: Cascade) -> npt.NDArray[np.float64]:
    """How sure each row of scores [rows, classes] is of its likeliest class, 0 to 1; a row that is not finite: 0."""
    values = scores.astype(np.float64)
    if rule.scores == "logits":
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
    if rule.confidence == "max" or values.shape[1] == 1:
        sure = values.max(axis=1)
    else:
        highest = np.partition(values, -2, axis=1)[:, -2:]
        sure = highest[:, 1] - highest[:, 0]
    return np.where(np.isfinite(values).all(axis=1), sure, 0.0)


def composed(first: LatencyProfile, then: LatencyProfile, escalation: float) -> LatencyProfile:
    """The profile of a cascade: the first variant on all rows, and what the second takes in the mean.

    Of `n` rows the number that goes on is binomial: E[T(n)] = t1(n) + sum_k C(n,k) e^k (1-e)^(n-k) t2(k), t2(0) = 0.
    Above `MANY_ROWS` its mean stands for it. What really happens is learnt while serving.
    """
    rows = [n for n in first.rows if n <= then.rows[-1]] or [first.rows[0]]
    seconds = [first.seconds[first.rows.index(n)] + _expected_s(then, n, escalation) for n in rows]
    return LatencyProfile(
        rows=tuple(rows),
        seconds=tuple(seconds),
        energy_mj_per_row=first.energy_mj_per_row + escalation * then.energy_mj_per_row,
        energy_source=first.energy_source,
    )


def _expected_s(then: LatencyProfile, rows: int, escalation: float) -> float:
    def seconds(count: float) -> float:
        return float(np.interp(count, then.rows, then.seconds))

    if rows > MANY_ROWS:
        return seconds(rows * escalation)
    return sum(comb(rows, k) * escalation**k * (1 - escalation) ** (rows - k) * seconds(k) for k in range(1, rows + 1))


def _put(array: Tensor, at: npt.NDArray[np.bool_], rows: Tensor) -> Tensor:
    whole: Tensor = array.copy()
    whole[at] = rows
    return whole
