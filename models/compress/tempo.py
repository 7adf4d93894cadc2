"""How many rows can be scored in the time there is: a slow model is judged by fewer of them, and as honestly.

A candidate is compared with the original on the same rows, so that some hundreds tell them apart; what is published
has the interval of the rows that it was measured on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.compress.dataset import Rows
from models.compress.original import Original, scores_of

TRIED_ROWS = 64
ENOUGH_S = 0.3
"""A trial this long tells the pace."""
CHOOSING_S = 3.0
"""Time that the original may take for the rows that candidates are compared on."""
LEAST_CHOOSING_ROWS = 512
"""Fewer would be cheaper, and no longer tell candidates apart."""


@dataclass(frozen=True, slots=True)
class Tempo:
    """How fast the original answers, and on how many rows candidates are compared with it."""

    row_s: float
    """Seconds a row, all cores at work."""
    choosing_rows: int


def tempo_of(original: Original, rows: Rows, clock: Callable[[], float] = time.perf_counter) -> Tempo:
    """Try the original on a few rows, on twice as many while that takes no time. Raises `ModelRunError`."""
    tried = min(TRIED_ROWS, len(rows))
    while True:
        before_s = clock()
        scores_of(original.session, original.output.name, rows.take(slice(0, tried)))
        took_s = clock() - before_s
        if took_s >= ENOUGH_S or tried == len(rows):
            break
        tried = min(2 * tried, len(rows))
    return Tempo(took_s / tried, choosing_rows(took_s / tried, len(rows)))


def choosing_rows(row_s: float, there: int) -> int:
    """A power of two, so that a busy moment seldom changes it, or all that there are."""
    fit = CHOOSING_S / row_s if row_s > 0 else there
    if fit >= there:
        return there
    return min(there, max(LEAST_CHOOSING_ROWS, 1 << (max(1, int(fit)).bit_length() - 1)))


def drawn(rows: Rows, count: int, seed: int) -> Rows:
    """So many of the rows, drawn at random and left in their order; all of them where there are no more."""
    if count >= len(rows):
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))
