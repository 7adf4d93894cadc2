"""Requests -> one batch, and the batch's outputs -> each request's own rows."""

from collections.abc import Mapping, Sequence

import numpy as np

from serving.codec.datatypes import Array

BatchKey = tuple[tuple[str, tuple[int, ...]], ...]


class BatchError(ValueError):
    """Arrays that cannot share a batch, or outputs that are not one row for each row of the inputs."""


def batch_key(inputs: Mapping[str, Array]) -> BatchKey:
    """Requests of one family with equal keys fit into one batch: same names and same shapes behind the rows."""
    return tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))


def merge(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The inputs of several requests, one after the other along the first axis.

    One request alone is returned as it is, not copied. Raises `BatchError` where names, datatypes or the other
    axes differ: nothing is widened or broadcast.
    """
    if not requests:
        raise BatchError("no requests to merge")
    first = requests[0]
    if len(requests) == 1:
        return dict(first)
    if any(request.keys() != first.keys() for request in requests):
        raise BatchError("requests with different inputs cannot share a batch")
    merged: dict[str, Array] = {}
    for name, like in first.items():
        parts = [request[name] for request in requests]
        if any(part.dtype != like.dtype or part.ndim == 0 for part in parts):
            raise BatchError(f"input '{name}': datatypes or ranks differ")
        try:
            merged[name] = np.concatenate(parts)
        except ValueError:
            raise BatchError(f"input '{name}': shapes differ behind the first axis") from None
    return merged


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
