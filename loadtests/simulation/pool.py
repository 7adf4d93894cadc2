"""The machines: workers that each run one batch at a time, first come, first served, whoever sent it."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from serving.core.request import Request


@dataclass(slots=True, eq=False)
class Batch:
    """A batch on its way through a worker."""

    gateway: int
    model: int
    variant: int
    requests: tuple[Request, ...]
    rows: int
    booked: int
    """The worker its gateway booked it on."""
    decided_s: float
    worker: int = -1
    """The worker it runs on."""
    service_s: float = 0.0
    crowd: float = 0.0
    """Share of its gateway's other workers that were busy when it was sent."""


class Host:
    """A machine: its workers slow each other down."""

    __slots__ = ("busy",)

    def __init__(self) -> None:
        self.busy = 0
        """Workers that run a batch."""


class Pool:
    """Workers shared by the gateways that may send to them."""

    def __init__(self, count: int, host: Host) -> None:
        """`count` workers (>= 1) of one machine."""
        self.host = host
        self.waiting: list[deque[Batch]] = [deque() for _ in range(count)]
        """Batches of each worker; the first one is running."""

    def put(self, batch: Batch) -> bool:
        """Hand the batch to its worker; whether it starts at once."""
        queue = self.waiting[batch.worker]
        queue.append(batch)
        return len(queue) == 1

    def done(self, worker: int) -> Batch | None:
        """The running batch has ended; the one that starts now, if any."""
        queue = self.waiting[worker]
        queue.popleft()
        return queue[0] if queue else None


class Booked:
    """Batches run where their gateway booked them."""

    def __init__(self, own: range) -> None:
        """`own`: the numbers of the gateway's workers."""
        self._own = own

    def choose(self, batch: Batch, now_s: float) -> int:  # noqa: ARG002  # the other way of routing needs the time
        """The worker for the batch."""
        return self._own[batch.booked]

    def returned(self, batch: Batch) -> None:
        """The batch is back at its gateway."""


class TwoChoices:
    """Batches go to the less loaded of two workers drawn at random, as Ray Serve's own router would send them.

    A gateway knows its own batches exactly, and those of the others as they were up to `staleness_s` ago. The booking
    says how much may be in flight, not where it goes.
    """

    def __init__(self, gateways: int, workers: int, staleness_s: float, uniform: Iterator[float]) -> None:
        self._workers = workers
        self._staleness_s = staleness_s
        self._uniform = uniform
        self._all = [0] * workers
        self._own = [[0] * workers for _ in range(gateways)]
        self._others = [[0] * workers for _ in range(gateways)]
        self._seen_s = [0.0] * gateways

    def choose(self, batch: Batch, now_s: float) -> int:
        """The worker for the batch, which counts there from now on."""
        gateway, workers = batch.gateway, self._workers
        own, others = self._own[gateway], self._others[gateway]
        if now_s - self._seen_s[gateway] >= self._staleness_s:
            others[:] = [total - mine for total, mine in zip(self._all, own, strict=True)]
            self._seen_s[gateway] = now_s
        chosen = int(next(self._uniform) * workers)
        if workers > 1:
            other = (chosen + 1 + int(next(self._uniform) * (workers - 1))) % workers
            if own[other] + others[other] < own[chosen] + others[chosen]:
                chosen = other
        own[chosen] += 1
        self._all[chosen] += 1
        return chosen

    def returned(self, batch: Batch) -> None:
        """The batch is back at its gateway."""
        self._own[batch.gateway][batch.worker] -= 1
        self._all[batch.worker] -= 1
