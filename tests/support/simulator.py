"""A few lines of discrete events around the production scheduler, so that properties see every decision it makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf

from serving.core.admission import Admitted
from serving.core.outcome import Outcome
from serving.core.request import Request
from serving.core.scheduler import Dispatch, Expire, Scheduler, Wait
from serving.core.workers import Workers
from tests.support.views import Arrival, Classes

TIMER_S = 0.0005
"""Shortest sleep between two decisions, as the dispatcher has it."""

Durations = Callable[[Dispatch], float]


@dataclass
class Batch:
    """One decision to run something, and what the queue held at that moment."""

    at_s: float
    decision: Dispatch
    queue: tuple[Request, ...]


@dataclass
class Run:
    """All that happened."""

    requests: list[Request] = field(default_factory=list)
    ends: dict[Request, list[Outcome]] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    decisions: list[tuple[object, ...]] = field(default_factory=list)
    """In plain values, so that two runs can be compared."""

    def outcomes(self) -> list[Outcome]:
        """How each request ended, in the order they arrived; fails unless each ended exactly once."""
        for request in self.requests:
            assert len(self.ends[request]) == 1, f"{request} ended as {self.ends[request]}"
        return [self.ends[request][0] for request in self.requests]


def simulate(
    scheduler: Scheduler, arrivals: Sequence[Arrival], *, workers: int, depth: int = 1, durations: Durations
) -> Run:
    """Drive the scheduler until nothing is left to happen. `durations` says how long a batch really takes."""
    return _Simulation(scheduler, Workers(workers, depth), durations).run(arrivals)


def as_predicted(batch: Dispatch) -> float:
    """Every batch takes exactly as long as expected."""
    return batch.expected_s


class _Simulation:
    def __init__(self, scheduler: Scheduler, workers: Workers, durations: Durations) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._durations = durations
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._now_s = 0.0
        self._classes = Classes(scheduler.variants)
        self._busy_until_s = [0.0] * len(workers)
        self._number: dict[Request, int] = {}
        self._run = Run()

    def run(self, arrivals: Sequence[Arrival]) -> Run:
        for arrival in arrivals:
            self._at(arrival.at_s, lambda arrival=arrival: self._arrive(arrival))
        while self._events:
            self._now_s, _, act = heappop(self._events)
            act()
            # What happens at one moment is handled before anything is decided, as in the dispatcher.
            if not self._events or self._events[0][0] > self._now_s:
                self._pump()
        assert self._workers.in_flight == 0
        return self._run

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        heappush(self._events, (at_s, next(self._serial), act))

    def _arrive(self, arrival: Arrival) -> None:
        allowed = self._classes.of(arrival)
        if allowed is None:
            return  # refused before it becomes a request
        request = Request(
            rows=arrival.rows,
            arrival_s=self._now_s,
            deadline_s=self._now_s + arrival.budget.latency_s,
            eligibility=allowed,
            priority=arrival.budget.priority,
            group=arrival.group,
            size_bytes=arrival.size_bytes,
        )
        self._number[request] = len(self._run.requests)
        self._run.requests.append(request)
        self._run.ends[request] = []
        verdict = self._scheduler.offer(request, self._now_s, self._workers.free_at_s(self._now_s))
        if not isinstance(verdict, Admitted):
            self._end(request, Outcome.REJECTED)
        elif arrival.cancel_after_s is not None:
            self._at(self._now_s + arrival.cancel_after_s, lambda: self._cancel(request))

    def _cancel(self, request: Request) -> None:
        if self._scheduler.cancel(request):
            self._end(request, Outcome.CANCELLED)

    def _pump(self) -> None:
        while True:
            queue = tuple(self._scheduler.queue)
            free_at_s = self._workers.free_at_s(self._now_s)
            decision = self._scheduler.decide(self._now_s, self._workers.idle, free_at_s)
            match decision:
                case Dispatch():
                    self._note("dispatch", decision.variant, *map(self._number.__getitem__, decision.requests))
                    self._run.batches.append(Batch(self._now_s, decision, queue))
                    self._start(decision)
                case Expire(requests):
                    assert requests, "an empty Expire would be decided for ever"
                    self._note("expire", *map(self._number.__getitem__, requests))
                    for request in requests:
                        self._end(request, Outcome.EXPIRED)
                case Wait(until_s):
                    self._note("wait", until_s)
                    if until_s < inf:
                        self._at(max(until_s, self._now_s + TIMER_S), lambda: None)
                    return

    def _note(self, *facts: object) -> None:
        self._run.decisions.append((self._now_s, *facts))

    def _start(self, batch: Dispatch) -> None:
        number = self._workers.start(self._now_s, batch.expected_s)
        took_s = self._durations(batch)
        ends_s = max(self._now_s, self._busy_until_s[number]) + took_s
        self._busy_until_s[number] = ends_s
        self._at(ends_s, lambda: self._finish(number, batch, took_s))

    def _finish(self, number: int, batch: Dispatch, took_s: float) -> None:
        self._workers.finish(number, self._now_s)
        self._scheduler.observe(batch.variant, batch.rows, took_s, self._now_s)
        for request in batch.requests:
            # The same hair of tolerance the core has: sums of floats.
            met = self._now_s <= request.deadline_s + 1e-9
            self._end(request, Outcome.MET if met else Outcome.LATE)

    def _end(self, request: Request, outcome: Outcome) -> None:
        self._run.ends[request].append(outcome)
