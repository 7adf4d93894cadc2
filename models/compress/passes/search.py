"""Hardware-aware search for a student: see `models.compress.students.study`."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import onnx

from models.compress.errors import Inapplicable
from models.compress.export import exported
from models.compress.step import Stage, Step
from models.compress.students.inputs import Tokens, kind_of
from models.compress.students.pace import epoch_s, unhurried, within
from models.compress.students.student import DEPTHS, StudentSpec, families, make
from models.compress.students.study import RUNGS, Study, StudyPlan
from models.compress.workbench import Workbench

SHARE_OF_TIME = 0.3
"""Part of the time left, when choices are made, that a whole study is planned for."""
PLANNED_TRIALS = (40, 24, 12, 6)
"""Networks to look at, as time allows; with fewer a search is no better than the students chosen by rule."""
LEAST_STEPS = 100
"""Batches before the first rung: with fewer no network has shown what it can."""


@dataclass(frozen=True, slots=True)
class Search(Step):
    """A study of a number of networks, and which of its answers to take."""

    name: ClassVar[str] = "search"
    stage: ClassVar[Stage] = Stage.SOURCE
    trains: ClassVar[bool] = True

    trials: int
    """Networks to look at."""
    epochs: int
    """Passes that the best of them are trained for."""
    batch_rows: int = 64
    latency_share: float | None = None
    """The most accurate network within this ratio of the original's latency; None: the best trade-off (`WORTH`)."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The network the study chose, trained to the end; of `model` nothing is used."""
        del model
        study = Study(StudyPlan(self.trials, self.epochs, self.batch_rows, self.latency_share), bench)
        spec = study.run()
        student = make(spec, study.kind, bench.original.classes, bench.seed)
        epochs = sum(study.train(student, spec, rung, bench).epochs for rung in range(len(RUNGS)))
        if not epochs:
            raise Inapplicable("no time was left to train the network that the search chose")
        return exported(student, bench)

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """One study, of as many trials and epochs as fit into the time left."""
        del model
        kind = kind_of(bench.train)
        family = families(kind)[-1 if isinstance(kind, Tokens) else 0]
        plan = unhurried(len(bench.train), family)
        if bench.time_left_s == math.inf:
            return [cls(PLANNED_TRIALS[0], plan.epochs, plan.batch_rows)]
        middling = make(StudentSpec(family, 32, DEPTHS[family][0]), kind, bench.original.classes)
        began_s = time.monotonic()
        exported(middling, bench)
        export_s = time.monotonic() - began_s
        pace_s = epoch_s(middling, bench.train, plan, bench)
        least = math.ceil(LEAST_STEPS / RUNGS[0] / max(1, len(bench.train) // plan.batch_rows))
        for trials in PLANNED_TRIALS:
            # A third kept at each of three rungs: a trial costs a third of a full training. One is finished after.
            allowed_s = bench.time_left_s * SHARE_OF_TIME - trials * export_s
            fitting = within(plan, pace_s * (trials / 3 + 1), allowed_s)
            if fitting is not None and fitting.epochs >= min(least, plan.epochs):
                return [cls(trials, fitting.epochs, plan.batch_rows)]
        raise Inapplicable(f"{bench.time_left_s:.0f} s are too short to search for a network")

    @property
    def label(self) -> str:
        """`nas`, or `nas.25` for a quarter of the original's latency."""
        return "nas" if self.latency_share is None else f"nas.{self.latency_share * 100:g}"
