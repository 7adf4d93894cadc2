"""One step of a recipe: a pass with its parameters.

A pass is a class, a step an instance of it: a frozen dataclass whose fields are the parameters, plain JSON
values. That makes a recipe (steps in order) something that can be hashed, stored, compared and shown.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, Self

import onnx

from models.compress.workbench import Workbench


class Stage(IntEnum):
    """The order of steps in a recipe: each works on what the earlier ones left."""

    SOURCE = 0
    """Makes a new model that imitates the original (a student, a classical model); the graph given is not used."""
    CLEAN = 1
    """Makes the graph simpler and computes the same."""
    STRUCTURE = 2
    """Removes or splits operators' dimensions: channels, heads, ranks."""
    WEIGHTS = 3
    """Changes the values of weights, not their shapes."""
    PRECISION = 4
    """Changes the type that numbers are kept or computed in."""
    FUSE = 5
    """What only this runtime understands: after it nothing else can read the graph."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step(ABC):
    """A pass and its parameters. Equal parameters, equal original, equal data and equal seed: equal result."""

    name: ClassVar[str]
    """As in `--passes` and in the recipe."""
    stage: ClassVar[Stage]
    trains: ClassVar[bool] = False
    """Whether the pass trains: it needs PyTorch, and mostly minutes."""

    @abstractmethod
    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model after this step; the one given is left as it was.

        Inputs and outputs keep their names, types and shapes. Raises `Inapplicable`.
        """

    @classmethod
    @abstractmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """The settings worth trying on this model, the most promising first.

        Raises `Inapplicable`, saying why, when there are none.
        """

    @property
    def takes_long(self) -> bool:
        """Whether carrying it out takes minutes, not seconds."""
        return self.trains

    @property
    @abstractmethod
    def label(self) -> str:
        """A few characters for the variant's name, of [a-z0-9.]: `int8`, `channels-50`."""

    def facts(self) -> dict[str, Any]:
        """The step as plain values: what the manifest keeps and the cache hashes."""
        return {"pass": self.name, **dataclasses.asdict(self)}


Recipe = tuple[Step, ...]
"""Steps in rising order of stage; no steps: the original as it is."""


def label_of(recipe: Recipe) -> str:
    """The variant's name: `original`, `int8`, `channels-50+int8`."""
    return "-".join(step.label for step in recipe) or "original"


def can_follow(step: type[Step], recipe: Recipe) -> bool:
    """Whether a step of that pass may be appended.

    Stages rise. Only what takes structure away may do so twice, by different passes.
    """
    if not recipe:
        return True
    last = recipe[-1].stage
    return step.stage > last or (
        step.stage == last == Stage.STRUCTURE and all(type(done) is not step for done in recipe)
    )
