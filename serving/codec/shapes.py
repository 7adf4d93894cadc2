"""Do the shapes of a request fit its family? The same answer for every transport, in Triton's words where it
has any.
"""

import math
from collections.abc import Collection, Sequence

from models.manifest import Family, TensorSpec
from serving.core.errors import InvalidRequest

MAX_DIM = 2**31 - 1
"""Largest dimension a request may name."""
_MAX_SPAN = 2**40
"""Bounds an empty tensor, whose other dimensions no amount of data bounds."""


def show_shape(shape: Sequence[int]) -> str:
    """A shape as JSON writes it, without spaces."""
    return f"[{','.join(map(str, shape))}]"


def expected_names(specs: Sequence[TensorSpec]) -> str:
    """The names a caller may use, for a message."""
    return ", ".join(spec.name for spec in specs)


def show_text(text: str) -> str:
    """A caller's own text, cut short for a message."""
    return text if len(text) <= 64 else f"{text[:64]}..."


def check_datatype(model: str, spec: TensorSpec, datatype: str) -> None:
    """Raise `InvalidRequest` unless the input has the datatype of its spec."""
    if datatype != spec.datatype:
        raise InvalidRequest(
            f"inference input '{spec.name}' data-type is '{show_text(datatype)}', but model '{model}' expects "
            f"'{spec.datatype}'"
        )


def check_shape(model: str, spec: TensorSpec, shape: Sequence[int]) -> int:
    """The number of elements of an input of that shape, as an exact integer.

    Raises `InvalidRequest` where a dimension is negative, huge, differs from a fixed one of the spec, or is above
    the largest bucket of one that is filled up.
    """
    fits = len(shape) == len(spec.shape)
    if fits:
        for expected, given in zip(spec.shape, shape, strict=True):
            if not 0 <= given <= MAX_DIM:
                raise InvalidRequest(f"input '{spec.name}': each dimension must be from 0 to {MAX_DIM}")
            if expected not in (given, -1):
                fits = False
    if not fits:
        # A dimension of a wrong rank is not yet known to be small: only a few short ones are worth echoing.
        short = len(shape) <= 16 and all(abs(dim) <= MAX_DIM for dim in shape)
        got = show_shape(shape) if short else f"{len(shape)} dimensions"
        raise InvalidRequest(
            f"unexpected shape for input '{spec.name}' for model '{model}'. "
            f"Expected {show_shape(spec.shape)}, got {got}."
        )
    if spec.padding is not None and shape[spec.padding.axis] > spec.padding.longest:
        raise InvalidRequest(
            f"input '{spec.name}': expected a length of at most {spec.padding.longest} (dimension "
            f"{spec.padding.axis}), got {shape[spec.padding.axis]}"
        )
    count = math.prod(shape)
    if count == 0 and math.prod(dim for dim in shape if dim) > _MAX_SPAN:
        raise InvalidRequest(f"input '{spec.name}': shape {show_shape(shape)} is too large")
    return count


def check_rows(family: Family, shapes: Collection[Sequence[int]]) -> int:
    """The rows of a request whose inputs have these shapes; 1 for a family that cannot be batched.

    Raises `InvalidRequest` where inputs disagree, or rows are none or more than a batch may hold.
    """
    if not family.batchable:
        return 1
    found = {shape[0] for shape in shapes}
    if len(found) != 1:
        raise InvalidRequest(
            f"inputs disagree on the number of rows (first dimension): {', '.join(map(str, sorted(found)))}"
        )
    (rows,) = found
    if rows > family.max_batch_rows:
        raise InvalidRequest(
            f"inference request batch-size must be <= {family.max_batch_rows} for '{family.name}', got {rows} rows"
        )
    if rows < 1:
        raise InvalidRequest(f"expected 1 to {family.max_batch_rows} rows (first dimension) in one request, got {rows}")
    return rows
