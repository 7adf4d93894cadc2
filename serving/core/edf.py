"""The queue of one model: earliest deadline first, counted in rows and bytes."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from serving.core.request import Eligibility, Request

_Key = tuple[float, int, int]


class EdfQueue:
    """Requests in the order of their deadlines; equals by priority, then by arrival.

    A sorted list: inserting is one memory move, which for the few thousand entries a deadline
    lets a queue hold is faster than any tree, and the head of the order is a plain slice.
    """

    def __init__(self) -> None:
        self._keys: list[_Key] = []
        self._requests: list[Request] = []
        self._works_s: list[float] = []
        self._key_of: dict[Request, _Key] = {}
        self._classes: Counter[tuple[Eligibility, object]] = Counter()
        self._serial = 0
        self.edits = 0
        """Changes, but for requests that were added at the end: while it stays, so does the head of the order."""
        self.rows = 0
        self.size_bytes = 0
        self.work_s = 0.0
        """Sum of `works_s`."""

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def __contains__(self, request: Request) -> bool:
        return request in self._key_of

    @property
    def head(self) -> Request:
        """The request with the earliest deadline; `IndexError` when the queue is empty."""
        return self._requests[0]

    @property
    def requests(self) -> list[Request]:
        """All requests in order. The queue's own list: read it, do not change it."""
        return self._requests

    @property
    def works_s(self) -> list[float]:
        """The work of each request, in the same order; as it was given. The queue's own list: read it only."""
        return self._works_s

    @property
    def fallbacks(self) -> set[int]:
        """The cheapest variants of the requests."""
        return {eligibility.variants[0] for eligibility, _ in self._classes}

    @property
    def alike(self) -> bool:
        """Whether every request has one row and may share a batch with any other."""
        return len(self._classes) <= 1 and self.rows == len(self._requests)

    def all_like(self, request: Request) -> bool:
        """Whether the queue would be `alike` with this request in it."""
        if request.rows != 1 or self.rows != len(self._requests):
            return False
        return not self._classes or (len(self._classes) == 1 and (request.eligibility, request.group) in self._classes)

    def position(self, request: Request) -> int:
        """Where a request not yet in the queue would stand: how many go before it."""
        return bisect_left(self._keys, (request.deadline_s, request.priority, self._serial + 1))

    def push(self, request: Request, work_s: float = 0.0) -> None:
        """Add a request that is not in the queue. `work_s`: worker-seconds it stands for, whoever counts them."""
        self._serial += 1
        key = (request.deadline_s, request.priority, self._serial)
        if not self._keys or key > self._keys[-1]:
            self._keys.append(key)
            self._requests.append(request)
            self._works_s.append(work_s)
        else:
            self.edits += 1
            at = bisect_left(self._keys, key)
            self._keys.insert(at, key)
            self._requests.insert(at, request)
            self._works_s.insert(at, work_s)
        self._key_of[request] = key
        self._classes[request.eligibility, request.group] += 1
        self.work_s += work_s
        self.rows += request.rows
        self.size_bytes += request.size_bytes

    def remove(self, request: Request) -> bool:
        """Take a request out wherever it stands; False when it is not here (any more)."""
        key = self._key_of.pop(request, None)
        if key is None:
            return False
        self.edits += 1
        at = bisect_left(self._keys, key)
        self._forget((request.eligibility, request.group), 1)
        self._leave(request.rows, request.size_bytes, self._works_s[at])
        del self._keys[at]
        del self._requests[at]
        del self._works_s[at]
        return True

    def take(self, requests: Iterable[Request]) -> None:
        """Take out requests that are all here; a run from the head costs one slice."""
        taken = list(requests)
        count = len(taken)
        if taken == self._requests[:count]:
            self.edits += 1
            kinds = Counter([(request.eligibility, request.group) for request in taken])
            for kind, gone in kinds.items():
                self._forget(kind, gone)
            for request in taken:
                del self._key_of[request]
            self._leave(
                sum([request.rows for request in taken]),
                sum([request.size_bytes for request in taken]),
                sum(self._works_s[:count]),
            )
            del self._keys[:count]
            del self._requests[:count]
            del self._works_s[:count]
            return
        for request in taken:
            self.remove(request)

    def _forget(self, kind: tuple[Eligibility, object], gone: int) -> None:
        left = self._classes[kind] - gone
        if left:
            self._classes[kind] = left
        else:
            del self._classes[kind]

    def _leave(self, rows: int, size_bytes: int, work_s: float) -> None:
        self.rows -= rows
        self.size_bytes -= size_bytes
        # What rounding leaves behind must not add up.
        self.work_s = self.work_s - work_s if self.rows else 0.0
