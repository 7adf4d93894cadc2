"""Requests -> one batch, and the batch's outputs -> each request's own rows."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from models.manifest import Padding
from serving.codec.datatypes import Array

BatchKey = tuple[tuple[str, tuple[int, ...]], ...]
NO_PADDING: Mapping[str, Padding] = MappingProxyType({})


class BatchError(ValueError):
    """Arrays that cannot share a batch, or outputs that are not one row for each row of the inputs."""


def batch_key(inputs: Mapping[str, Array], paddings: Mapping[str, Padding] = NO_PADDING) -> BatchKey:
    """Requests of one family with equal keys fit into one batch: same names and same shapes behind the rows, once the
    inputs that have a padding are filled up. `ValueError` where one is longer than its largest bucket.
    """
    return tuple(sorted((name, _filled_shape(array, paddings.get(name))[1:]) for name, array in inputs.items()))


def merge(requests: Sequence[Mapping[str, Array]], paddings: Mapping[str, Padding] = NO_PADDING) -> dict[str, Array]:
    """The inputs of several requests, one after the other along the first axis.

    Inputs that have a padding are filled up on the way, so that nothing larger than what was sent waits in a queue.
    What needs neither company nor filling is returned as it is, not copied. Raises `BatchError` where names,
    datatypes or the other axes differ: nothing is widened or broadcast.
    """
    if not requests:
        raise BatchError("no requests to merge")
    first = requests[0]
    if len(requests) == 1 and not paddings:
        return dict(first)
    if any(request.keys() != first.keys() for request in requests):
        raise BatchError("requests with different inputs cannot share a batch")
    merged: dict[str, Array] = {}
    for name, like in first.items():
        parts = [request[name] for request in requests]
        if any(part.dtype != like.dtype or part.ndim == 0 for part in parts):
            raise BatchError(f"input '{name}': datatypes or ranks differ")
        padding = paddings.get(name)
        try:
            merged[name] = np.concatenate(parts) if padding is None else _filled_up(parts, padding)
        except (ValueError, IndexError):
            raise BatchError(f"input '{name}': shapes differ behind the first axis") from None
    return merged


def _filled_shape(array: Array, padding: Padding | None) -> tuple[int, ...]:
    shape = array.shape
    if padding is None:
        return shape
    return (*shape[: padding.axis], padding.bucket_of(shape[padding.axis]), *shape[padding.axis + 1 :])


def _filled_up(parts: Sequence[Array], padding: Padding) -> Array:
    """The parts one after the other, each filled up behind along the axis; `ValueError` unless they then agree."""
    (_, *rest), *others = (_filled_shape(part, padding) for part in parts)
    if any(list(shape[1:]) != rest for shape in others):
        raise ValueError("parts of different buckets")
    if len(parts) == 1 and list(parts[0].shape[1:]) == rest:
        return parts[0]
    whole = np.full((sum(map(len, parts)), *rest), padding.value, parts[0].dtype)
    start = 0
    for part in parts:
        end = start + len(part)
        whole[(slice(start, end), *map(slice, part.shape[1:]))] = part
        start = end
    return whole


def split(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """Each request's own rows, in the order they were merged in: views, not copies.

    Raises `BatchError` where an output has more or fewer rows than all requests together: whose they are
    would be a guess.
    """
    if not rows or min(rows) < 1:
        raise BatchError("each request of a batch must have at least one row")
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != total:
            got = len(array) if array.ndim else "no"
            raise BatchError(f"output '{name}': expected {total} rows, got {got}")
    parts = []
    start = 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return parts
