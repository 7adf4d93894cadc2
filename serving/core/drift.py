"""When a prediction does not hold any more: Page's test, for each variant and in both directions.

The slowdown follows slowly, so that noise does not move it, and it moves all variants alike. What leaves its prediction
for good asks for more: a host that turns slower at once, or a table measured at a bad moment. The test sums what the
logarithm of observed over predicted exceeds the usual by (E. S. Page, "Continuous Inspection Schemes", Biometrika 41,
1954); when the sum passes a limit, the variant has moved, and by how much is the mean of the batches that led to it.

Whether the host has moved or only a table was wrong, others tell. A variant that ran meanwhile and kept to its
prediction is a witness that the host has not. Without a witness the host is taken to have moved, for that is what
happens more often, and all others move along. When the first of these runs and does not take what it was moved to,
while there is a witness, it was a table after all, and all that were moved along and have not run since go back too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import log

USUAL = 0.15
"""Deviation of a log ratio that is no sign yet: half the smallest shift worth finding at once, about a third."""
LIMIT = 2.0
"""Sum of what exceeds it that is a sign: four batches of twice their prediction or more, fourteen at 1.35 times it."""
SUSPECT = USUAL
"""Sum from which a variant is no witness, and not moved without having run."""
CLIP = log(2.0)
"""Largest deviation counted: a stall is no shift, however long."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Variants that moved, all by the same factor."""

    log_factor: float
    variants: frozenset[int]


@dataclass(slots=True)
class _Run:
    """The batches of one variant since its sum was last 0, in one direction."""

    excess: float = 0.0
    batches: int = 0
    level: float = 0.0
    """Sum of the logarithms of observed over tabled time."""
    since: int = 0
    kept_at: int = 0
    """When the variant last gave no reason to suspect it, in batches of all."""

    def clear(self) -> None:
        self.excess, self.batches, self.level = 0.0, 0, 0.0


class Drift:
    """Watches the variants of one family that share a host."""

    def __init__(self, variants: Collection[int]) -> None:
        self._runs = {sign: {variant: _Run() for variant in variants} for sign in (1, -1)}
        self._moved_along: set[int] = set()
        """Those that were moved without having run, and have not been seen to keep to it since."""
        self._now = 0

    def see(self, variant: int, log_ratio: float, log_factor: float) -> Shift | None:
        """One batch: the logarithms of observed over predicted, and of predicted over tabled time; who moved by it."""
        self._now += 1
        kept = True
        for sign, runs in self._runs.items():
            run = runs[variant]
            deviation = min(max(sign * log_ratio, -CLIP), CLIP)
            if not run.excess:
                run.since = self._now
            run.excess += deviation - USUAL
            if run.excess < SUSPECT:
                run.kept_at = self._now
            if run.excess <= 0:
                run.clear()
                continue
            kept = False
            run.batches += 1
            run.level += log_factor + sign * deviation
            if run.excess > LIMIT:
                return Shift(run.level / run.batches - log_factor, self._movers(variant, runs))
        if kept:
            self._moved_along.discard(variant)
        return None

    def _movers(self, variant: int, runs: Mapping[int, _Run]) -> frozenset[int]:
        """All who move with a variant that does; they begin anew."""
        since = runs[variant].since
        if not any(run.kept_at >= since for other, run in runs.items() if other != variant):
            moved = frozenset(self._runs[1])
            self._moved_along |= {other for other in moved if runs[other].excess <= SUSPECT}
        elif variant in self._moved_along:
            moved = frozenset(self._moved_along)
        else:
            moved = frozenset({variant})
        self._moved_along.discard(variant)
        for other in moved:
            for either in self._runs.values():
                either[other].clear()
        return moved
