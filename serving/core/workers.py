"""Which workers run how much, and when each is predicted to be free."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Worker:
    since_s: float = 0.0
    """Since when it is kept by the batch that runs."""
    followed: bool = False
    """Whether that batch was there already when the one before it ended."""
    free_at_s: float = 0.0
    expected_s: deque[float] = field(default_factory=deque)
    """Predicted service times of the batches in flight; the first one is running."""


class Workers:
    """The workers of one pool as the dispatcher books them. Each runs one batch at a time.

    With a depth of 2 a worker may hold a second batch that starts when the first is done, which hides the
    time a batch spends on its way.
    """

    def __init__(self, count: int, depth: int = 1) -> None:
        """`count` workers (>= 1) with at most `depth` batches each in flight."""
        self._workers = [_Worker() for _ in range(count)]
        self._leaving: dict[int, _Worker] = {}
        self.depth = depth
        self.in_flight = 0

    def __len__(self) -> int:
        return len(self._workers)

    def resize(self, count: int) -> None:
        """There are `count` workers (>= 1) from now on. Batches of those that leave end, and count no more."""
        for number in range(count, len(self._workers)):
            if self._workers[number].expected_s:
                self._leaving[number] = self._workers[number]
        del self._workers[count:]
        for number in range(len(self._workers), count):
            self._workers.append(self._leaving.pop(number) if number in self._leaving else _Worker())
        self.in_flight = sum(len(worker.expected_s) for worker in self._workers)

    @property
    def idle(self) -> int:
        """Batches that may be dispatched now."""
        return len(self._workers) * self.depth - self.in_flight

    @property
    def busy(self) -> int:
        """Workers that run a batch."""
        return sum(1 for worker in self._workers if worker.expected_s)

    @property
    def crowd(self) -> float:
        """Share of the other workers that are busy, beside one that has just been given a batch."""
        others = len(self._workers) - 1
        return min(1.0, (self.busy - 1) / others) if others > 0 else 0.0

    def free_at_s(self, now_s: float) -> tuple[float, ...]:
        """When each worker is predicted to be free, never in the past; first the one to get the next batch.

        A batch that takes longer than predicted is expected to end any moment now.
        """
        times = [max(now_s, worker.free_at_s) if worker.expected_s else now_s for worker in self._workers]
        if self.idle:
            first = self._next(now_s)
            times[0], times[first] = times[first], times[0]
        else:
            times.sort()
        return tuple(times)

    def start(self, now_s: float, expected_s: float) -> int:
        """Book a batch on the worker that can start it first; returns that worker's number."""
        number = self._next(now_s)
        worker = self._workers[number]
        if not worker.expected_s:
            worker.since_s, worker.followed = now_s, False
        begin_s = max(now_s, worker.free_at_s) if worker.expected_s else now_s
        worker.free_at_s = begin_s + expected_s
        worker.expected_s.append(expected_s)
        self.in_flight += 1
        return number

    def kept_s(self, number: int, now_s: float) -> float | None:
        """How long the batch that ends on this worker has kept it, what comes besides the model included.

        None where that is not known: with two batches in flight a worker, one that followed none was on its way for
        some of the time, and a second would have been on its way beside it.
        """
        worker = self._worker(number)
        return now_s - worker.since_s if worker.followed or self.depth == 1 else None

    def finish(self, number: int, now_s: float) -> None:
        """The batch that ran on this worker has ended; a second one starts now."""
        worker = self._worker(number)
        worker.expected_s.popleft()
        worker.since_s, worker.followed = now_s, True
        worker.free_at_s = now_s + sum(worker.expected_s)
        if number < len(self._workers):
            self.in_flight -= 1
        elif not worker.expected_s:
            del self._leaving[number]

    def _worker(self, number: int) -> _Worker:
        return self._workers[number] if number < len(self._workers) else self._leaving[number]

    def _next(self, now_s: float) -> int:
        open_to_more = [i for i, worker in enumerate(self._workers) if len(worker.expected_s) < self.depth]
        return min(
            open_to_more,
            key=lambda i: max(now_s, self._workers[i].free_at_s) if self._workers[i].expected_s else now_s,
        )


def own_workers(workers: int, gateways: int, place: int) -> range:
    """The numbers of the workers, out of `workers`, that are one gateway's own: the one at `place` among `gateways`.

    None of them sees what the others send. Each planning with all workers, they promise the same time several times
    over; each sending to any, their batches wait behind batches they do not know of. So every worker is one
    gateway's, and only where there are fewer workers than gateways some share one.
    """
    return range(place % workers, workers, gateways)
