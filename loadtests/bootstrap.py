"""Intervals of means by resampling (Efron and Tibshirani, 1993, chapter 13: the percentile method)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it may lie, with 95 % confidence."""

    mean: float
    low: float
    high: float
    """`low` and `high` are the mean itself where nothing was repeated."""


def mean_interval(groups: Sequence[Sequence[float]], *, seed: int = 1, draws: int = DRAWS) -> Interval:
    """The mean of the groups' means, each group resampled by itself.

    A group holds the repeats of one thing (the seeds of one cell); the groups themselves are taken as they are. Of
    paired measurements pass the differences. With few repeats the interval is somewhat too narrow.
    Raises `ValueError` without any value.
    """
    if not groups or not all(groups):
        raise ValueError("an interval needs at least one group, and in each at least one value")
    rng = np.random.default_rng(seed)
    drawn = np.zeros(draws)
    for group in groups:
        values = np.asarray(group, dtype=float)
        drawn += values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    drawn /= len(groups)
    low, high = np.quantile(drawn, [(1 - SHARE) / 2, (1 + SHARE) / 2]).tolist()
    mean = sum(sum(group) / len(group) for group in groups) / len(groups)
    # Of a constant the draws differ from the mean in the last bits.
    return Interval(mean, min(low, mean), max(high, mean))
