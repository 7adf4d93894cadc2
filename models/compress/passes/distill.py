"""A student: a small network of another design, taught by the original."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log
from typing import ClassVar, Self

import onnx

from models.compress.cost import multiply_adds
from models.compress.errors import Inapplicable
from models.compress.export import exported
from models.compress.step import Stage, Step
from models.compress.students.inputs import Kind, kind_of
from models.compress.students.pace import epoch_s, unhurried, within
from models.compress.students.student import StudentSpec, families, make, sizes_up_to
from models.compress.training import LABEL_WEIGHT, PEAK_RATE, TEMPERATURE, TrainingPlan, learn
from models.compress.workbench import Workbench

WISHES = (
    ("residual", 1 / 3),
    ("separable", 1 / 10),
    ("efficient", 1 / 2),
    ("separable", 1 / 30),
    ("perceptron", 1 / 4),
    ("perceptron", 1 / 12),
    ("perceptron", 1 / 2),
    ("perceptron", 1 / 30),
    ("transformer", 1 / 4),
    ("bag", 1 / 30),
    ("transformer", 1 / 10),
)
"""Families, each with the share of the original's multiply-adds it is to have; the most promising first."""
SLACK = 1.5
"""How far from the share that was wished for a student may lie: sizes come in steps."""
SHARE_OF_TIME = 0.25
"""Of the time left, for one student: there are several, and other passes."""
LEAST_EPOCHS = 3
"""With fewer a student learns too little to be worth its time."""


@dataclass(frozen=True, slots=True)
class Distill(Step):
    """One student and how it is trained."""

    name: ClassVar[str] = "distill"
    stage: ClassVar[Stage] = Stage.SOURCE
    trains: ClassVar[bool] = True

    family: str
    """See `students.student.families`."""
    width: int
    depth: int
    epochs: int
    batch_rows: int = 64
    peak_rate: float = PEAK_RATE
    temperature: float = TEMPERATURE
    label_weight: float = LABEL_WEIGHT

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The student after its lessons; of `model` nothing is used."""
        del model
        kind = kind_of(bench.train)
        if self.family not in families(kind):
            raise Inapplicable(f"{self.family}: such a student cannot read this model's inputs")
        student = make(self.spec, kind, bench.original.classes, bench.seed)
        learned = learn(student, bench, self.plan, self.label)
        if not learned.epochs:
            raise Inapplicable(f"{self.label}: no time was left to train it")
        return exported(student, bench)

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """Students of a half to a thirtieth of the model's work that can be trained in the time left."""
        kind = kind_of(bench.train)
        work = multiply_adds(model)
        if not work:
            raise Inapplicable("the model has no convolutions or matrix products to size a student by")
        sizes = sizes_up_to(work, kind, bench.original.classes, bench.train)
        chosen = list(dict.fromkeys(_nearest(sizes, family, share * work) for family, share in WISHES))
        steps = [cls._planned(spec, kind, bench) for spec in chosen if spec is not None]
        fitting = [step for step in steps if step is not None]
        if not fitting and steps:
            raise Inapplicable(f"{bench.time_left_s:.0f} s are too short to train a student")
        if not fitting:
            raise Inapplicable("no student is smaller: the model is as small as the smallest of them")
        return fitting

    @property
    def label(self) -> str:
        """As `separable.16x2`: family, width, depth."""
        return self.spec.label

    @property
    def spec(self) -> StudentSpec:
        """The student itself."""
        return StudentSpec(self.family, self.width, self.depth)

    @property
    def plan(self) -> TrainingPlan:
        """How it is trained."""
        return TrainingPlan(
            epochs=self.epochs,
            batch_rows=self.batch_rows,
            peak_rate=self.peak_rate,
            temperature=self.temperature,
            label_weight=self.label_weight,
        )

    @classmethod
    def _planned(cls, spec: StudentSpec, kind: Kind, bench: Workbench) -> Self | None:
        """The step for a student, with the epochs there is time for; None when they are too few."""
        wanted = unhurried(len(bench.train), spec.family)
        pace_s = 0.0
        if bench.time_left_s != inf:
            pace_s = epoch_s(make(spec, kind, bench.original.classes), bench.train, wanted, bench)
        plan = within(wanted, pace_s, bench.time_left_s * SHARE_OF_TIME)
        if plan is None or plan.epochs < LEAST_EPOCHS:
            return None
        return cls(spec.family, spec.width, spec.depth, plan.epochs, plan.batch_rows, plan.peak_rate)


def _nearest(sizes: dict[StudentSpec, int], family: str, work: float) -> StudentSpec | None:
    """The student of a family whose multiply-adds are nearest; None when none is near."""
    ratios = {spec: abs(log(size / work)) for spec, size in sizes.items() if spec.family == family and size > 0}
    if not ratios:
        return None
    best = min(ratios, key=lambda spec: ratios[spec])
    return best if ratios[best] <= log(SLACK) or family == "bag" else None
