"""What to try next: recipes grow a step at a time, the most promising first.

A best-first search over compositions. A recipe is proposed when the one it extends has been made and weighed;
what does not need training goes first, since minutes of it give most of the frontier. Compositions of
candidates that are far from the frontier are not tried: a step may cost accuracy, it never returns it for
nothing (steps with recovery training excepted, which is why "far" leaves some room).
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from models.compress.frontier import Rated
from models.compress.step import Recipe, Stage, Step

HOPELESS_LOSS = 0.1
"""A candidate that lost more of the original's score than this is not worth another step."""
LONGEST = 4
"""Steps in a recipe."""


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    trains: bool
    depth: int
    """Steps of the recipe, and how far down the list of its pass the last one stood."""
    behind: float
    serial: int


@dataclass(frozen=True, slots=True)
class Question:
    """What could this pass do with that recipe's model? Put off where finding out takes long."""

    recipe: Recipe
    about: type[Step]


@dataclass(slots=True)
class Agenda:
    """The recipes, and the questions, that wait for their turn."""

    _waiting: list[tuple[_Place, Recipe | Question]] = field(default_factory=list)
    _serial: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def propose(self, recipe: Recipe, steps: Iterable[Step], behind: float = 0.0) -> None:
        """Put the recipe extended by each of the steps, the most promising first, on the agenda.

        `behind` is how far the recipe's model lies behind the frontier: 0 for a member.
        """
        for rank, step in enumerate(steps):
            self._put(step.takes_long, len(recipe) + 1 + rank, behind, (*recipe, step))

    def ask(self, question: Question, behind: float = 0.0) -> None:
        """Put a question on the agenda, before what may come of it."""
        self._put(question.about.trains, len(question.recipe) + 1, behind, question)

    def next(self, *, training: bool) -> Recipe | Question | None:
        """What to do now; with `training` False only what needs none. None when nothing is left."""
        if not self._waiting or (self._waiting[0][0].trains and not training):
            return None
        return heapq.heappop(self._waiting)[1]

    def _put(self, trains: bool, depth: int, behind: float, item: Recipe | Question) -> None:
        heapq.heappush(self._waiting, (_Place(trains, depth, behind, self._serial), item))
        self._serial += 1


def worth_extending(recipe: Recipe, rated: Rated, original: Rated) -> bool:
    """Whether to go on from a recipe's model."""
    finished = len(recipe) >= LONGEST or (recipe and recipe[-1].stage is Stage.FUSE)
    return not finished and rated.score >= original.score - HOPELESS_LOSS
