"""Which candidates are worth keeping: the Pareto set, with room for the noise of measuring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

SAME_SHARE = 0.03
"""Latencies, sizes and energies closer than this are equal: a repeated measurement moves as much."""
SAME_SCORE = 0.001
"""Scores closer than this are equal."""


class Rated(Protocol):
    """What candidates are compared by. More `score` is better, less of everything else."""

    @property
    def score(self) -> float:
        """Share of right answers, 0 to 1."""
        ...

    @property
    def costs(self) -> tuple[float, ...]:
        """Latency, size, energy: any positive units, the same for all."""
        ...


@dataclass(frozen=True, slots=True)
class Rating:
    """The plain form of `Rated`."""

    score: float
    costs: tuple[float, ...]


def dominates(one: Rated, other: Rated) -> bool:
    """Whether `one` is nowhere worse than `other` and somewhere clearly better."""
    ratios = [mine / theirs for mine, theirs in zip(one.costs, other.costs, strict=True)]
    worse = one.score < other.score - SAME_SCORE or any(ratio > 1 + SAME_SHARE for ratio in ratios)
    better = one.score > other.score + SAME_SCORE or any(ratio < 1 - SAME_SHARE for ratio in ratios)
    return better and not worse


def frontier(candidates: Sequence[Rated]) -> list[int]:
    """Indices of the candidates that none dominates, in the order given. Of equals the first stays."""
    kept: list[int] = []
    for at, candidate in enumerate(candidates):
        beaten = any(dominates(other, candidate) for other in candidates)
        twin = any(alike(candidates[earlier], candidate) for earlier in kept)
        if not beaten and not twin:
            kept.append(at)
    return kept


def thinned(candidates: Sequence[Rated], most: int, always: frozenset[int] = frozenset()) -> list[int]:
    """At most `most` candidates (indices, in order) that stand for all: the ones closest to a neighbour go first.

    Distance is taken along the latency axis (the first cost), in ratio, which is how a latency budget chooses;
    the indices in `always` stay, and the ends of the range while another can go; of the ends the slowest goes first.
    """
    kept = sorted(range(len(candidates)), key=lambda at: (candidates[at].costs[0], at))
    while len(kept) > max(most, 2):
        inner = [place for place in range(1, len(kept) - 1) if kept[place] not in always]
        ends = [place for place in (len(kept) - 1, 0) if kept[place] not in always]
        if not inner and not ends:
            break
        del kept[min(inner, key=lambda place: _room(candidates, kept, place)) if inner else ends[0]]
    return sorted(kept)


def _room(candidates: Sequence[Rated], kept: Sequence[int], place: int) -> float:
    """How much a family loses without the candidate at `place`: the score it adds for the requests it would serve."""
    slower, self_, faster = (candidates[kept[place + step]] for step in (1, 0, -1))
    gain = max(self_.score - faster.score, 0.0)
    return gain * (slower.costs[0] / self_.costs[0] - 1.0)


def alike(one: Rated, other: Rated) -> bool:
    """Whether no measurement tells the two apart."""
    close = all(abs(a / b - 1.0) <= SAME_SHARE for a, b in zip(one.costs, other.costs, strict=True))
    return close and abs(one.score - other.score) <= SAME_SCORE
