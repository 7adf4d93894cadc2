"""An `.npz` file to arrays that fit a model, or the reason why not.

Names, datatypes and shapes are read from the headers first: what does not fit is refused before it is loaded.
"""

import difflib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from models.compress.errors import CompressError
from models.manifest import TensorSpec
from models.session import Tensor

LABELS = "labels"
LABEL_NAMES = frozenset({"label", "y", "y_test", "y_train", "target", "targets", "classes", "class"})
"""What else people call labels."""
CHECKED_BYTES = 2**24
"""Values looked at in one go: a check must not need as much memory as the data."""
COPIES = 2.5
"""How often the data is in memory at the height: as read, and shuffled into its shares."""


@dataclass(frozen=True, slots=True)
class _Header:
    """What an array in the file says of itself."""

    dtype: "np.dtype[np.generic]"
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_arrays(
    path: Path, inputs: Sequence[TensorSpec], classes: int
) -> tuple[dict[str, Tensor], NDArray[np.int64] | None]:
    """An array for each input, [rows, ...], and the labels [rows] if the file has them. Raises `CompressError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {name.removesuffix(".npy"): _header(path, archive, name) for name in archive.namelist()}
            labelled = LABELS in headers and all(spec.name != LABELS for spec in inputs)
            _check_names(path, [spec.name for spec in inputs], headers, labelled)
            for spec in inputs:
                _check_header(path, spec, headers[spec.name])
            _check_counts(path, {spec.name: headers[spec.name].shape[0] for spec in inputs})
            rows = headers[inputs[0].name].shape[0]
            if labelled:
                _check_labels_header(path, headers[LABELS], rows, classes)
            _check_memory(path, [headers[spec.name] for spec in inputs])
            arrays = {spec.name: _load(archive, spec.name) for spec in inputs}
            labels = _load(archive, LABELS) if labelled else None
    except FileNotFoundError as error:
        raise CompressError(f"{path}: there is no such file") from error
    except zipfile.BadZipFile as error:
        raise CompressError(f"{path}: {_no_archive(path, error)}") from error
    except OSError as error:
        raise CompressError(f"{path}: cannot be read: {error.strerror or error}") from error
    except CompressError:
        raise
    except (EOFError, ValueError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise CompressError(
            f"{path}: is damaged: {error or 'it ends too early'}; write it again with np.savez"
        ) from error
    for name, array in arrays.items():
        _check_finite(path, name, array)
    return arrays, None if labels is None else _class_numbers(path, labels, classes)


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> _Header:
    with archive.open(name) as file:
        if not name.endswith(".npy"):
            raise CompressError(f"{path}: holds '{name}', which is no array: write it with np.savez")
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject or dtype.names is not None:
        raise CompressError(
            f"{path}: array '{name.removesuffix('.npy')}' holds Python objects, which are not read: loading them could "
            "run code. Rows of one length make a plain array; texts go in as `np.array(texts)`, a fixed-width type"
        )
    return _Header(dtype, shape)


def _load(archive: zipfile.ZipFile, name: str) -> Tensor:
    with archive.open(f"{name}.npy") as file:
        array: Tensor = np.lib.format.read_array(file, allow_pickle=False)
    # Clients' bytes arrive in the host's order and contiguous.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _no_archive(path: Path, error: zipfile.BadZipFile) -> str:
    with path.open("rb") as file:
        start = file.read(6)
    if not start:
        return "is empty; write it with np.savez(path, NAME=array)"
    if start == b"\x93NUMPY":
        return "holds a single array (.npy); write np.savez(path, NAME=array), where NAME is the model's input"
    if start[:2] == b"PK":
        return f"is cut off or damaged ({error}); compare its size with the source's and copy it again"
    return "is no .npz file; write it with np.savez(path, NAME=array)"


def _check_names(path: Path, wanted: list[str], headers: Mapping[str, _Header], labelled: bool) -> None:
    missing = [name for name in wanted if name not in headers]
    extra = [name for name in headers if name not in wanted and not (labelled and name == LABELS)]
    if not missing and not extra:
        return
    takes = ", ".join(f"'{name}'" for name in wanted)
    if missing and len(extra) == len(missing) == 1 and extra[0] not in LABEL_NAMES:
        raise CompressError(
            f"{path}: the model's input is called '{missing[0]}', the array '{extra[0]}': rename it with "
            f"`np.savez(path, **{{{missing[0]!r}: data[{extra[0]!r}], ...}})`"
        )
    if missing:
        near = difflib.get_close_matches(missing[0], extra, n=1, cutoff=0.5)
        hint = f" (is it '{near[0]}'?)" if near else ""
        held = ", ".join(f"'{name}'" for name in headers)
        raise CompressError(
            f"{path}: lacks an array '{missing[0]}'{hint}: the model takes {takes}, the file holds {held or 'nothing'}"
        )
    near = difflib.get_close_matches(extra[0], [*wanted, LABELS], n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    if extra[0].lower() in LABEL_NAMES and LABELS not in headers:
        hint = f": if it holds the class numbers, call it '{LABELS}'"
    raise CompressError(
        f"{path}: array '{extra[0]}' is no input of the model{hint}. The model takes {takes}, and '{LABELS}' if known; "
        "leave others out"
    )


def _check_header(path: Path, spec: TensorSpec, header: _Header) -> None:
    where = f"{path}: array '{spec.name}'"
    if spec.datatype == "BYTES":
        if header.dtype.kind not in "SU":
            raise CompressError(f"{where} is {header.dtype}, the model takes text: `np.array(texts)` of str or bytes")
    elif header.dtype.newbyteorder("=") != (wanted := _dtype_of(spec)):
        scale = "; scale pixels as in training" if header.dtype.kind in "iu" and wanted.kind == "f" else ""
        raise CompressError(
            f"{where} is {header.dtype}, the model takes {wanted}: convert it with `.astype(np.{wanted})`{scale}"
        )
    expected = f"[{', '.join(['rows', *('any' if dim == -1 else str(dim) for dim in spec.shape[1:])])}]"
    if not header.shape or len(header.shape) != len(spec.shape):
        raise CompressError(f"{where} has shape {list(header.shape)}, expected {expected}{_remedy(spec, header.shape)}")
    for axis, (dim, found) in enumerate(zip(spec.shape[1:], header.shape[1:], strict=True), start=1):
        if dim not in (-1, found) or found == 0:
            raise CompressError(
                f"{where} has shape {list(header.shape)}, expected {expected}: axis {axis} is {found}, not "
                f"{'at least 1' if dim == -1 else dim}{_remedy(spec, header.shape)}"
            )
    if header.shape[0] == 0:
        raise CompressError(f"{where} has no rows; put at least some hundred into it")


def _dtype_of(spec: TensorSpec) -> "np.dtype[np.generic]":
    name = {"FP16": "float16", "FP32": "float32", "FP64": "float64"}.get(spec.datatype, spec.datatype.lower())
    return np.dtype(name)


def _remedy(spec: TensorSpec, found: tuple[int, ...]) -> str:
    """What turns an array into the shape wanted, where that is plain."""
    wanted = spec.shape[1:]

    def fits(shape: Sequence[int]) -> bool:
        return len(shape) == len(wanted) and all(w in (-1, f) for w, f in zip(wanted, shape, strict=True))

    if not found:
        return ""
    for axis in range(len(found)):
        if fits([*found[1 : axis + 1], 1, *found[axis + 1 :]]):
            return f"; `np.expand_dims(x, {axis + 1})` adds the missing axis"
    if len(found) == 4 and fits([found[3], found[1], found[2]]):
        return "; `x.transpose(0, 3, 1, 2)` puts the channels first"
    if len(found) == 4 and fits([found[2], found[3], found[1]]):
        return "; `x.transpose(0, 2, 3, 1)` puts the channels last"
    if -1 not in wanted and prod(wanted) == prod(found[1:]):
        return f"; `x.reshape({', '.join(['-1', *map(str, wanted)])})` keeps the values"
    return ""


def _check_counts(path: Path, rows: Mapping[str, int]) -> None:
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"'{name}' has {count}" for name, count in rows.items())
        raise CompressError(f"{path}: the arrays differ in rows: {listed}; give one row to each input")


def _check_labels_header(path: Path, header: _Header, rows: int, classes: int) -> None:
    where = f"{path}: array '{LABELS}'"
    if header.shape == (rows, classes) and header.shape != (rows, 1):
        raise CompressError(f"{where} is one-hot, {list(header.shape)}: `labels.argmax(axis=1)` gives class numbers")
    if header.shape != (rows,):
        remedy = "; `labels.ravel()` drops the second axis" if header.shape == (rows, 1) else ""
        raise CompressError(f"{where} has shape {list(header.shape)}, expected [{rows}]: one class a row{remedy}")
    if header.dtype.kind not in "iu":
        remedy = (
            "number the texts in the order of the model's scores"
            if header.dtype.kind in "SU"
            else "convert them with `.astype(np.int64)`"
        )
        raise CompressError(f"{where} is {header.dtype}, expected class numbers, integers from 0: {remedy}")


def _check_memory(path: Path, headers: Sequence[_Header]) -> None:
    needed = int(COPIES * sum(prod(header.shape) * header.dtype.itemsize for header in headers))
    free = psutil.virtual_memory().available
    if needed > free:
        raise CompressError(
            f"{path}: unpacked it needs {needed / 2**30:.1f} GB of memory while {free / 2**30:.1f} GB are free; give "
            "fewer rows: some tens of thousands are plenty"
        )


def _check_finite(path: Path, name: str, array: Tensor) -> None:
    if array.dtype.kind != "f":
        return
    count, first = 0, -1
    for start, part in _parts(array):
        bad = ~np.isfinite(part).reshape(len(part), -1)
        if bad.any():
            count += int(bad.sum())
            first = first if first >= 0 else start + int(np.flatnonzero(bad.any(axis=1))[0])
    if count:
        raise CompressError(
            f"{path}: array '{name}' holds {count} values that are NaN or infinite, the first in row {first}; drop "
            "those rows or fill them as in training"
        )


def _parts(array: Tensor) -> Iterator[tuple[int, Tensor]]:
    rows = max(1, CHECKED_BYTES // max(1, array.nbytes // len(array)))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def _class_numbers(path: Path, labels: Tensor, classes: int) -> NDArray[np.int64]:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        hint = " They seem to count from 1: subtract 1" if labels.min() == 1 and labels.max() == classes else ""
        raise CompressError(
            f"{path}: {wrong.size} labels are outside 0 to {classes - 1}, the model's classes: the first is "
            f"{labels[wrong[0]]} in row {wrong[0]}.{hint}"
        )
    return labels.astype(np.int64)
