"""What a student learns from: training rows, altered copies of them, and what the original says of each.

The original answers for the very copy the student sees (a consistent teacher: Beyer et al., "Knowledge
distillation: A good teacher is patient and consistent", 2021). It answers once, through ONNX Runtime, for a
few fixed copies of every row, and its answers are kept on disk: several students learn from them.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.compress.dataset import Rows
from models.compress.original import log_probabilities
from models.compress.students.inputs import Images, kind_of
from models.compress.workbench import Workbench
from models.session import Tensor

MIRROR = "mirror"
SHIFT = "shift"
ALTERATIONS = (MIRROR, SHIFT)
"""Ways to alter an image that may leave its class as it is: left to right, and by a few pixels."""

MOST_LOSS = 0.01
"""Most of its score that the original may lose when every validation row is altered: what a task allows is asked
of the model that knows it. Digits may not be mirrored, shoes may. Where nobody labelled the rows the score is
the share of verdicts it keeps, which is stricter: on the rows it is in doubt about a model changes its mind."""
SHIFT_SHARE = 1 / 12
"""Most that an image is moved by, as a share of its shorter side; at least one pixel."""
TEACHER_TIME = 0.25
"""Share of the time left that the original may spend on copies."""
MOST_SCORES = 1 << 28
"""Most scores kept for one original: 1 GiB of float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """Rows, the ways each is altered, and the right answers. Copy 0 of a row is the row itself."""

    rows: Rows
    images: Images | None
    """How to alter them; None where nothing is altered."""
    moves: NDArray[np.int16]
    """Pixels down, pixels right, and 1 for mirrored, of each copy of each row: [copies, rows, 3]."""
    answers: NDArray[np.float32]
    """The original's logarithms of probabilities, [copies, rows, classes]."""
    alterations: tuple[str, ...]
    """Those that were found to be allowed."""

    @property
    def copies(self) -> int:
        """Versions of each row, the unaltered one among them."""
        return len(self.answers)

    def inputs(self, index: NDArray[np.intp], copy: NDArray[np.intp]) -> dict[str, Tensor]:
        """The inputs of the rows at `index`, each in its version `copy`."""
        chosen = self.rows.take(index).inputs
        if self.images is None:
            return dict(chosen)
        return altered(chosen, self.images, self.moves[copy, index])


def lessons(bench: Workbench, wanted: tuple[str, ...], copies: int) -> Lessons:
    """Ask the original, or read what it said before.

    `copies` altered versions of each row are made with those of `wanted` alterations that the task allows,
    fewer when the original is too slow for the time left.
    """
    unknown = set(wanted) - set(ALTERATIONS)
    if unknown:
        raise ValueError(f"unknown alterations {sorted(unknown)}: there are {', '.join(ALTERATIONS)}")
    kind = kind_of(bench.train) if wanted and copies else None
    if not isinstance(kind, Images):
        return _plain(bench)
    name = f"lessons-{_digest(bench, wanted, copies)}"
    file = bench.folder / f"{name}.npz"
    kept = _read(file)
    if kept is None:
        # Another step of this run may have asked; what this step learns from must be in its own folder all the same.
        kept = bench.known.get(name) or _ask(bench, kind, wanted, copies)
        _write(file, kept)
    bench.known[name] = kept
    alterations = tuple(str(name) for name in kept["alterations"])
    if not len(kept["moves"]):
        return _plain(bench)
    still = np.zeros((1, len(bench.train), 3), np.int16)
    answers = np.concatenate([log_probabilities(bench.teacher)[None], kept["answers"]])
    return Lessons(bench.train, kind, np.concatenate([still, kept["moves"]]), answers, alterations)


def altered(inputs: Mapping[str, Tensor], images: Images, moves: NDArray[np.int16]) -> dict[str, Tensor]:
    """Images moved and mirrored, each its own way; what moves in repeats the edge. `moves` is [rows, 3]."""
    array = inputs[images.name]
    down, right = images.sides
    pixels = np.moveaxis(array, (down, right), (1, 2))
    height, width = pixels.shape[1:3]
    rows = np.clip(np.arange(height) - moves[:, 0, None], 0, height - 1)
    columns = np.clip(np.arange(width) - moves[:, 1, None], 0, width - 1)
    columns = np.where(moves[:, 2, None] == 1, width - 1 - columns, columns)
    moved = pixels[np.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return {**inputs, images.name: np.ascontiguousarray(np.moveaxis(moved, (1, 2), (down, right)))}


def _plain(bench: Workbench) -> Lessons:
    still = np.zeros((1, len(bench.train), 3), np.int16)
    return Lessons(bench.train, None, still, log_probabilities(bench.teacher)[None], ())


def _ask(bench: Workbench, images: Images, wanted: tuple[str, ...], copies: int) -> dict[str, Tensor]:
    """Find out what is allowed, and let the original answer for the copies."""
    random = np.random.default_rng((bench.seed, 71))
    began = time.monotonic()
    asked, mirrored, pixels = _allowed(bench, images, wanted, random)
    row_s = (time.monotonic() - began) / asked
    classes = bench.original.classes
    copies = min(copies if mirrored or pixels else 0, MOST_SCORES // (len(bench.train) * classes))
    if copies * len(bench.train) * row_s > TEACHER_TIME * bench.time_left_s:
        copies = int(TEACHER_TIME * bench.time_left_s / (len(bench.train) * row_s))
    moves = np.zeros((copies, len(bench.train), 3), np.int16)
    answers = np.zeros((copies, len(bench.train), classes), np.float32)
    for copy in range(copies):
        bench.progress("asking the original about altered rows", copy / copies)
        moves[copy] = _moves(len(bench.train), random, mirrored=mirrored, pixels=pixels)
        rows = Rows(altered(bench.train.inputs, images, moves[copy]), None)
        answers[copy] = log_probabilities(bench.original.scores(rows))
    alterations = [name for name, found in ((MIRROR, mirrored), (SHIFT, pixels > 0)) if found]
    return {"moves": moves, "answers": answers, "alterations": np.array(alterations, dtype="<U16")}


def _allowed(
    bench: Workbench, images: Images, wanted: tuple[str, ...], random: np.random.Generator
) -> tuple[int, bool, int]:
    """How many rows the original was asked about, whether images may be mirrored, and the most pixels to shift by."""
    rows = bench.validation
    asked = 0

    def score(moves: NDArray[np.int16]) -> float:
        nonlocal asked
        asked += len(rows)
        seen = bench.original.scores(Rows(altered(rows.inputs, images, moves), None)).argmax(axis=1)
        return float((seen == bench.verdicts).mean())

    still = np.zeros((len(rows), 3), np.int16)
    least = score(still) - MOST_LOSS
    mirrored = still.copy()
    mirrored[:, 2] = 1
    most = max(1, round(min(images.height, images.width) * SHIFT_SHARE)) if SHIFT in wanted else 0
    shifts = (pixels for pixels in range(most, 0, -1) if score(_moves(len(rows), random, pixels=pixels)) >= least)
    may_mirror, pixels = MIRROR in wanted and score(mirrored) >= least, next(shifts, 0)
    return asked, may_mirror, pixels


def _moves(count: int, random: np.random.Generator, *, mirrored: bool = False, pixels: int = 0) -> NDArray[np.int16]:
    """Moves of so many images, drawn evenly: up to so many pixels along each axis, mirrored or not."""
    moves = np.zeros((count, 3), np.int16)
    moves[:, :2] = random.integers(-pixels, pixels, (count, 2), endpoint=True)
    moves[:, 2] = random.integers(0, 2, count) * mirrored
    return moves


def _digest(bench: Workbench, wanted: tuple[str, ...], copies: int) -> str:
    facts = f"{bench.original.sha256} {len(bench.train)} {sorted(wanted)} {copies} {bench.seed}"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _read(file: Path) -> dict[str, Tensor] | None:
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def _write(file: Path, kept: dict[str, Tensor]) -> None:
    """So that a kill leaves all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft.npz")
    np.savez(draft, allow_pickle=False, **kept)
    draft.replace(file)
