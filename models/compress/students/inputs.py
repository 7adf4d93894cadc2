"""What a model's inputs are: images, vectors or tokens. Told from names, types, shapes and values.

A student is chosen by it, and so is the way copies of a row may be altered without changing its meaning.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.compress.dataset import Rows
from models.compress.errors import Inapplicable
from models.session import Tensor

STATISTICS_ROWS = 8192
"""Rows that means and deviations are taken over: more would not change them."""
SMALLEST_SIDE = 8
"""Pixels; what is smaller than that along an axis is no image, but a vector with a shape."""
MOST_CHANNELS = 16
"""Of an image; an axis longer than that is taken for height or width."""
MOST_VOCABULARY = 1 << 18
"""Whole numbers above that are quantities, not ids."""

Layout = Literal["nhw", "nchw", "nhwc"]
"""Where an image's axes lie."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """One input that holds pictures."""

    name: str
    layout: Layout
    channels: int
    height: int
    width: int
    mean: NDArray[np.float32]
    """Of each channel over the training rows, [channels], in the input's own units."""
    deviation: NDArray[np.float32]
    """Standard deviation of each channel, [channels]; 1 for a channel that never changes."""

    @property
    def sides(self) -> tuple[int, int]:
        """The axes of height and width in a batch."""
        return (2, 3) if self.layout == "nchw" else (1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """One or more inputs of numbers without a spatial order."""

    names: tuple[str, ...]
    """In the order their numbers are put in a row."""
    mean: NDArray[np.float32]
    """Of each number over the training rows, [length]."""
    deviation: NDArray[np.float32]
    """Standard deviation of each number, [length]; 1 for one that never changes."""

    @property
    def length(self) -> int:
        """How many numbers describe one row."""
        return len(self.mean)


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Ids of words or other symbols, [rows, length]."""

    name: str
    mask: str | None
    """The input that is 1 where a token counts, if there is one."""
    padded: bool
    """Whether id 0 is padding, there being no mask: it stands at the end of rows only, or at their start only."""
    unused: tuple[str, ...]
    """Inputs that a student takes and does not look at, such as the segments of a sentence pair."""
    length: int
    vocabulary: int
    """Ids lie below it."""


Kind = Images | Vectors | Tokens


def kind_of(rows: Rows) -> Kind:
    """What these rows hold. Raises `Inapplicable` for what no student can read."""
    for name, array in rows.inputs.items():
        if array.dtype.kind not in "biuf":
            raise Inapplicable(f"input '{name}' is text: a student reads numbers only")
        if array.ndim < 1 or array[:1].size == 0:
            raise Inapplicable(f"input '{name}' is empty: there is nothing to learn from")
    sample = {name: array[:STATISTICS_ROWS] for name, array in rows.inputs.items()}
    tokens = [name for name, array in rows.inputs.items() if _are_ids(array)]
    if tokens:
        if len(tokens) < len(rows.inputs):
            others = sorted(set(rows.inputs) - set(tokens))
            raise Inapplicable(f"tokens together with other inputs ({', '.join(others)}): no student reads both")
        return _tokens(rows)
    if len(sample) == 1:
        ((name, array),) = sample.items()
        layout = _layout(array)
        if layout is not None:
            return _images(name, array, layout)
    return _vectors(sample)


def _are_ids(array: Tensor) -> bool:
    """Whether these are ids of tokens: whole numbers of 32 or 64 bits, [rows, length]."""
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.dtype.itemsize < 4:
        return False
    return bool(array.min() >= 0 and array.max() < MOST_VOCABULARY)


def _tokens(rows: Rows) -> Tokens:
    ranges = {name: int(array.max()) + 1 for name, array in rows.inputs.items()}
    main = max(ranges, key=lambda name: ranges[name])
    masks = [name for name in ranges if name != main and "mask" in name.lower() and ranges[name] <= 2]
    mask = masks[0] if masks else None
    unused = tuple(name for name in ranges if name not in {main, mask})
    return Tokens(
        main, mask, mask is None and _pads(rows.inputs[main]), unused, rows.inputs[main].shape[1], ranges[main]
    )


def _pads(ids: Tensor) -> bool:
    zeros = (ids == 0).astype(np.int8)
    steps = np.diff(zeros, axis=1)
    return bool(zeros.any() and ((steps >= 0).all() or (steps <= 0).all()))


def _layout(array: Tensor) -> Layout | None:
    shape = array.shape
    if array.ndim == 3 and min(shape[1:]) >= SMALLEST_SIDE:
        return "nhw"
    if array.ndim != 4:
        return None
    if shape[1] <= MOST_CHANNELS and min(shape[2:]) >= SMALLEST_SIDE:
        return "nchw"
    if shape[3] <= MOST_CHANNELS and min(shape[1:3]) >= SMALLEST_SIDE:
        return "nhwc"
    return None


def _images(name: str, array: Tensor, layout: Layout) -> Images:
    flat = array.astype(np.float32)
    if layout == "nhw":
        flat = flat[:, None]
    elif layout == "nhwc":
        flat = flat.transpose(0, 3, 1, 2)
    _, channels, height, width = flat.shape
    mean, deviation = _statistics(flat.transpose(0, 2, 3, 1).reshape(-1, channels))
    return Images(name, layout, channels, height, width, mean, deviation)


def _vectors(sample: dict[str, Tensor]) -> Vectors:
    flat = np.concatenate([array.reshape(len(array), -1).astype(np.float32) for array in sample.values()], axis=1)
    mean, deviation = _statistics(flat)
    return Vectors(tuple(sample), mean, deviation)


def _statistics(flat: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation along the first axis; computed in float64, for many rows would add up inexactly."""
    mean = flat.mean(axis=0, dtype=np.float64)
    deviation = flat.std(axis=0, dtype=np.float64)
    deviation[deviation < 1e-6 * np.maximum(np.abs(mean), 1.0)] = 1.0
    return mean.astype(np.float32), deviation.astype(np.float32)
