"""Every student by name, made from a few plain numbers, and what it costs before it is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.compress.dataset import Rows
from models.compress.students.images import BLOCKS, ImageStudent
from models.compress.students.inputs import Images, Kind, Tokens, Vectors
from models.compress.students.layers import Student
from models.compress.students.tokens import TokenStudent
from models.compress.students.vectors import VectorStudent

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Worth trying: whole vectors of 8 floats, about half as wide again each."""
DEPTHS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {**dict.fromkeys(BLOCKS, (1, 2, 3)), "perceptron": (1, 2, 3), "bag": (0,), "transformer": (1, 2, 3, 4)}
)
"""Depths worth trying, by family."""


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """One student: its family and size."""

    family: str
    """See `families`."""
    width: int
    """Channels of the first stage, numbers of a hidden layer, or numbers a token is embedded in."""
    depth: int
    """Blocks of each stage, hidden layers, or transformer layers."""

    @property
    def label(self) -> str:
        """A few characters of [a-z0-9.]."""
        return f"{self.family}.{self.width}x{self.depth}"


def families(kind: Kind) -> tuple[str, ...]:
    """The families that read such inputs, the plainest first."""
    if isinstance(kind, Images):
        return tuple(BLOCKS)
    return ("perceptron",) if isinstance(kind, Vectors) else ("bag", "transformer")


def make(spec: StudentSpec, kind: Kind, classes: int, seed: int = 0) -> Student:
    """An untrained student; equal seeds, equal weights. Raises `ValueError` where the family cannot read the kind."""
    if spec.family not in families(kind):
        known = ", ".join(families(kind))
        raise ValueError(f"no student '{spec.family}' for such inputs; there are: {known}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(kind, Images):
            return ImageStudent(kind, classes, block=spec.family, width=spec.width, depth=spec.depth)
        if isinstance(kind, Tokens):
            return TokenStudent(kind, classes, width=spec.width, depth=spec.depth)
        return VectorStudent(kind, classes, width=spec.width, depth=spec.depth)


def sizes_up_to(work: float, kind: Kind, classes: int, rows: Rows) -> dict[StudentSpec, int]:
    """Every student worth trying on such inputs with its multiply-adds for one row, where they are at most `work`."""
    sizes = {}
    for family in families(kind):
        for depth in DEPTHS[family]:
            for width in WIDTHS:
                spec = StudentSpec(family, width, depth)
                size = multiply_adds(make(spec, kind, classes), rows)
                if size > work:
                    break
                sizes[spec] = size
    return sizes


def multiply_adds(student: Student, rows: Rows) -> int:
    """Multiplications with additions that a student does for one row, in convolutions and matrix products."""
    inputs = {name: torch.from_numpy(array[:1]) for name, array in rows.inputs.items()}
    student.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        student(inputs)
    return int(counter.get_total_flops()) // 2
