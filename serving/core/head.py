"""The head of a queue, and the batches that variants may form of it."""

from bisect import bisect_right
from collections.abc import Sequence

from serving.core.edf import EdfQueue
from serving.core.fleet import VariantView
from serving.core.request import Request

WINDOW = 96
"""Requests at the head among which a batch finds its members."""


class Head:
    """The requests that are due first. Those that variants may have alike are looked at once for all of them."""

    def __init__(self, queue: EdfQueue, most_rows: int) -> None:
        """`most_rows`: of any variant's batch."""
        self._queue = queue
        self._most_rows = most_rows
        window = () if queue.alike else queue.requests[:WINDOW]
        self._window = [(request, request.eligibility.mask) for request in window]
        self._masks = {mask for _, mask in self._window}
        self._found: dict[tuple[int, ...], tuple[Sequence[Request], Sequence[int]]] = {}
        """What was found already, by which of the masks allow the variant."""

    def batch(self, variant: VariantView) -> tuple[Sequence[Request], Sequence[int]]:
        """The first requests in deadline order that may form a batch on this variant, up to its knee, and how many rows
        the first one has, the first two, ...
        """
        at, knee = variant.index, variant.knee_rows
        if self._queue.alike:
            alike = self._queue.requests[:knee] if self._queue.head.eligibility.mask >> at & 1 else ()
            return alike, range(1, len(alike) + 1)
        kind = tuple([mask >> at & 1 for mask in self._masks])
        found = self._found.get(kind)
        if found is None:
            found = self._found[kind] = self._members(1 << at)
        members, sizes = found
        count = bisect_right(sizes, knee) or 1
        return members[:count], sizes[:count]

    def _members(self, bit: int) -> tuple[Sequence[Request], Sequence[int]]:
        """Those who may be served together by a variant, and by others with larger batches."""
        members: list[Request] = []
        sizes: list[int] = []
        rows, group = 0, None
        for request, mask in self._window:
            if not mask & bit:
                continue
            if not members:
                group = request.group
            elif request.group != group:
                continue
            elif rows + request.rows > self._most_rows:
                break
            members.append(request)
            rows += request.rows
            sizes.append(rows)
        return members, sizes
