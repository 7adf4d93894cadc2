"""The user's data: one array per model input, and labels where there are any, split in three.

Passes see `train` (to calibrate and to learn from) and `validation` (to choose by). `test` is only for the
figures that are published: no pass and no choice ever sees it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.compress.errors import CompressError
from models.compress.npz_file import read_arrays
from models.session import ModelRunError, Tensor

if TYPE_CHECKING:  # the original is scored on rows: at run time it imports this module
    from models.compress.original import Original

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
LEAST_ROWS = 100
LEAST_TEST_ROWS = 20
TRIAL_ROWS = 8
"""Rows the model is tried on before anything long begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows of the data."""

    inputs: Mapping[str, Tensor]
    """One array per model input, [rows, ...]."""
    labels: NDArray[np.int64] | None
    """Class numbers [rows]; None where nobody labelled them."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, index: NDArray[np.intp] | slice) -> "Rows":
        """The rows at those places."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        return Rows(inputs, None if self.labels is None else self.labels[index])


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """All of the data, and what names it."""

    train: Rows
    validation: Rows
    test: Rows
    digest: str
    """SHA-256 over the arrays and the split: what results depend on."""


def read_dataset(path: Path, original: "Original", *, test: Path | None = None, seed: int = 0) -> Dataset:
    """Read the rows for a model from an `.npz`, and those to measure on from `test`, or hold out a share.

    The arrays are called as the model's inputs; `labels`, if there, holds class numbers. Nothing is converted:
    what a client would have to send is what is calibrated with. Raises `CompressError`, naming the fact and the
    remedy.
    """
    rows = Rows(*read_arrays(path, original.inputs, original.classes))
    apart = None if test is None else Rows(*read_arrays(test, original.inputs, original.classes))
    _require_enough(path, len(rows), LEAST_ROWS)
    _try(path, original, rows)
    if test is not None and apart is not None:
        _require_enough(test, len(apart), LEAST_TEST_ROWS)
        _require_alike(path, rows, test, apart)
        _try(test, original, apart)
    return split(rows, test=apart, seed=seed)


def split(rows: Rows, *, test: Rows | None = None, seed: int = 0) -> Dataset:
    """Shuffle once and divide; `test` replaces the share that would be held out."""
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out = 0 if test is not None else round(len(rows) * TEST_SHARE)
    validation = round(len(rows) * VALIDATION_SHARE)
    return Dataset(
        train=rows.take(order[held_out + validation :]),
        validation=rows.take(order[held_out : held_out + validation]),
        test=test if test is not None else rows.take(order[:held_out]),
        digest=_digest(rows, test, seed),
    )


def _digest(rows: Rows, test: Rows | None, seed: int) -> str:
    hasher = hashlib.sha256(f"seed {seed}".encode())
    for part in (rows, test):
        if part is None:
            continue
        arrays = {**part.inputs, **({} if part.labels is None else {"labels": part.labels})}
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            hasher.update(f"{name} {array.dtype} {array.shape}".encode())
            hasher.update(array.tobytes() if array.dtype == object else array.data)
    return hasher.hexdigest()


def _require_enough(path: Path, rows: int, least: int) -> None:
    if rows < least:
        why = (
            f"{VALIDATION_SHARE:.0%} of them choose between variants and {TEST_SHARE:.0%} measure the result"
            if least == LEAST_ROWS
            else "with fewer, one row moves the accuracy by more than five points"
        )
        raise CompressError(
            f"{path}: has {rows} rows, and {least} are the least: {why}. Some thousands, drawn like the requests to "
            "come, give figures worth publishing"
        )


def _require_alike(path: Path, rows: Rows, test: Path, apart: Rows) -> None:
    if (rows.labels is None) != (apart.labels is None):
        without = path if rows.labels is None else test
        raise CompressError(f"{without}: has no 'labels' and the other file has: label both files or neither")
    if len(rows) == len(apart) and all(np.array_equal(rows.inputs[name], apart.inputs[name]) for name in rows.inputs):
        raise CompressError(
            f"{test}: holds the same rows as {path}: what is measured on them was chosen by them. Give other rows, or "
            "leave the test file out and a share is held back"
        )


def _try(path: Path, original: "Original", rows: Rows) -> None:
    """Run the model on the first rows: what it cannot compute is better said now than after an hour."""
    try:
        scores = original.scores(rows.take(slice(0, TRIAL_ROWS)))
    except ModelRunError as error:
        raise CompressError(
            f"{path}: the model fails on the first rows: {error}. Values may be out of its range (token numbers beyond "
            "its vocabulary), or free axes of another length than it can take"
        ) from error
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if bad.size:
        raise CompressError(
            f"{path}: the model answers row {bad[0]} with NaN or infinity; check that the data is scaled as in training"
        )
