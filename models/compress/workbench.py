"""What a pass may use: the original as its teacher, the rows it may see, and the clock it works against."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from models.compress.dataset import Rows
from models.compress.original import Original, scores_of
from models.session import Session

Computed = TypeVar("Computed")

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1."""


def _silent(_what: str, _share: float) -> None:
    pass


@dataclass(frozen=True)
class Workbench:
    """The surroundings of a step. It never holds the test rows: what is measured on them is not chosen by them."""

    original: Original
    train: Rows
    validation: Rows
    folder: Path
    """For state that must survive a kill, such as a training run or a study. Private to this original and data."""
    seed: int = 0
    threads: int = 1
    """Cores a step may use for itself."""
    deadline_s: float = inf
    """On the clock of `time.monotonic`: when the caller's time is up."""
    progress: Progress = field(default=_silent)
    known: dict[str, Any] = field(default_factory=dict)
    """What is worth computing once for all steps."""

    @property
    def time_left_s(self) -> float:
        """Seconds until the caller's time is up; may be infinite, never negative."""
        return max(0.0, self.deadline_s - time.monotonic())

    @property
    def teacher(self) -> NDArray[np.float32]:
        """What the original says of the training rows, [rows, classes]."""
        return self._once("teacher", lambda: self.original.scores(self.train))

    @property
    def verdicts(self) -> NDArray[np.int64]:
        """The right answers on the validation rows: their labels, or what the original says where there are none."""
        if self.validation.labels is not None:
            return self.validation.labels
        return self._once("verdicts", lambda: self.expected.argmax(axis=1))

    @property
    def expected(self) -> NDArray[np.float32]:
        """What the original says of the validation rows, [rows, classes]."""
        return self._once("expected", lambda: self.original.scores(self.validation))

    def score(self, model: onnx.ModelProto) -> float:
        """Share of validation rows that a model gets right: what choices are made by, 0 to 1."""
        scores = scores_of(Session(model.SerializeToString()), self.original.output.name, self.validation)
        return float((scores.argmax(axis=1) == self.verdicts).mean())

    def _once(self, name: str, compute: Callable[[], Computed]) -> Computed:
        if name not in self.known:
            self.known[name] = compute()
        value: Computed = self.known[name]
        return value
