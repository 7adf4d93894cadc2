"""What to try next: recipes grow a step at a time, the most promising first.

A best-first search over compositions. A recipe is proposed when the one it extends has been made and weighed.
Recipes of few steps, and the first choices of a pass, go first; training waits one round for what takes seconds.
What another candidate dominates is not extended, unless it is a new model or a new structure: those are made to
be worked on further. Nor is what lost too much: a step may cost accuracy, it never returns it.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from models.compress.frontier import Rated, alike, dominates
from models.compress.step import Recipe, Stage, Step

HOPELESS_LOSS = 0.1
"""A candidate that lost more of the original's score than this is not worth another step."""
LONGEST = 4
"""Steps in a recipe."""


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    round: int
    """Steps of the recipe, how far down the list of its pass the last one stood, and one more for training."""
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

    _waiting: list[tuple[_Place, bool, Recipe | Question]] = field(default_factory=list)
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
        while self._waiting:
            _, takes_long, item = heapq.heappop(self._waiting)
            if training or not takes_long:
                return item
        return None

    def _put(self, takes_long: bool, depth: int, behind: float, item: Recipe | Question) -> None:
        heapq.heappush(self._waiting, (_Place(depth + takes_long, behind, self._serial), takes_long, item))
        self._serial += 1


def worth_extending(recipe: Recipe, rated: Rated, others: Sequence[Rated]) -> bool:
    """Whether to go on from a recipe's model. `others` were made before, the original first."""
    if not recipe:
        return True
    if len(recipe) >= LONGEST or rated.score < others[0].score - HOPELESS_LOSS:
        return False
    if recipe[-1].stage in (Stage.SOURCE, Stage.STRUCTURE):
        return True
    return not any(dominates(other, rated) or alike(other, rated) for other in others)
