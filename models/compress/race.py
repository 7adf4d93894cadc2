"""Runs of several models in turns with a reference, so that what slows the host slows all alike."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any, Literal, Self

from numpy.typing import NDArray

from models.compress.dataset import Rows
from models.compress.energy import EnergyMeter
from models.session import Session

SIZES = (1, 2, 4, 8, 16, 32)
"""Rows of a batch."""
LEAST_TURNS = 5
"""Larger batches are given up before there is time for fewer turns than this."""
BLOCK_S = 0.012
"""Time one model gets in one turn, at least `BLOCK_RUNS` runs after a discarded one."""
BLOCK_RUNS = 3
FEEDS = 4
"""Different batches that take turns, so that no model is measured on one lucky input."""
BUSY_FACTOR = 1.5
"""How much longer a run may take with all cores busy, assumed when planning."""

Mode = Literal["alone", "busy"]
"""One batch at a time, or one on each worker."""
Place = tuple[str, Mode, int]
"""Name, mode, rows."""


class Race:
    """The sessions side by side, and what was seen of them so far, by name, mode and rows."""

    def __init__(
        self,
        reference: Session,
        sessions: Mapping[str, Session],
        rows: Rows,
        workers: int,
        meter: EnergyMeter,
        clock: Callable[[], float],
    ) -> None:
        self.workers = workers
        self.modes: tuple[Mode, ...] = ("alone", "busy") if workers > 1 else ("alone",)
        self.samples: defaultdict[Place, list[float]] = defaultdict(list)
        """Seconds of single runs."""
        self.ratios: defaultdict[Place, list[float]] = defaultdict(list)
        """One a turn: the variant's median over that of the reference around it."""
        self.joules_a_row: defaultdict[str, list[float]] = defaultdict(list)
        """One a turn."""
        self._reference = reference
        self._sessions = sessions
        self._meter = meter
        self._clock = clock
        self._pool = ThreadPoolExecutor(workers)
        self._feeds = {size: _feeds(rows, size) for size in SIZES if size <= len(rows)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def rehearse(self, limit_s: float) -> tuple[tuple[int, ...], float]:
        """Warm up, and find the sizes that fit into the time and how long a turn of them takes."""
        sizes: list[int] = []
        started_s, turn_s, size_s = self._clock(), 0.0, 0.0
        for size, feeds in self._feeds.items():
            if not self._fits(sizes, turn_s + size_s, started_s + limit_s):
                break  # a larger batch takes no less than the one before
            all_s = []
            for session in (self._reference, *self._sessions.values()):
                session.run(feeds[0])
                before_s = self._clock()
                session.run(feeds[0])
                all_s.append(self._clock() - before_s)
            # A variant's block and one of the reference, in each mode; a run takes longer when all cores are busy.
            block_s = [max(BLOCK_S, BLOCK_RUNS * run_s) + run_s for run_s in all_s]
            size_s = (sum(block_s) + len(self._sessions) * block_s[0]) * len(self.modes) * BUSY_FACTOR
            if not self._fits(sizes, turn_s + size_s, started_s + limit_s):
                break
            sizes.append(size)
            turn_s += size_s
        return tuple(sizes), turn_s

    def _fits(self, sizes: Sequence[int], turn_s: float, ends_s: float) -> bool:
        return not sizes or self._clock() + LEAST_TURNS * turn_s <= ends_s

    def turn(self, number: int, sizes: Sequence[int]) -> None:
        """Every variant once at each size and in each mode, each between two blocks of the reference."""
        names = list(self._sessions)
        names = names[number % len(names) :] + names[: number % len(names)]
        for mode in self.modes:
            for size in sizes:
                before = self._block(self._reference, mode, size)
                for name in names:
                    samples = self._block(self._sessions[name], mode, size, name)
                    after = self._block(self._reference, mode, size)
                    around_s = (statistics.median(before) + statistics.median(after)) / 2
                    self.samples[name, mode, size] += samples
                    self.ratios[name, mode, size].append(statistics.median(samples) / around_s)
                    before = after

    def _block(self, session: Session, mode: Mode, size: int, name: str | None = None) -> list[float]:
        """Times of a few runs, and with a name their energy where that is what is asked for."""
        before = self._meter.joules()
        samples, runs = self._alone(session, size) if mode == "alone" else self._busy(session, size)
        if name is not None and size == 1 and mode == self.modes[-1]:
            self.joules_a_row[name].append((self._meter.joules() - before) / runs)
        return samples

    def _alone(self, session: Session, size: int) -> tuple[list[float], int]:
        samples = self._runs(session, self._feeds[size], Event())
        return samples, len(samples) + 1

    def _busy(self, session: Session, size: int) -> tuple[list[float], int]:
        """The same with every worker at it: they start together, and stop when the first has seen enough."""
        enough, start = Event(), Barrier(self.workers)

        def work(at: int) -> list[float]:
            feeds = self._feeds[size]
            start.wait()
            samples = self._runs(session, feeds[at % len(feeds) :] + feeds[: at % len(feeds)], enough)
            enough.set()
            return samples

        parts = list(self._pool.map(work, range(self.workers)))
        samples = [sample for part in parts for sample in part]
        return samples, len(samples) + self.workers

    def _runs(self, session: Session, feeds: Sequence[Mapping[str, NDArray[Any]]], enough: Event) -> list[float]:
        """Times of runs after one that brings the model back into the processor's caches."""
        session.run(feeds[0])
        samples: list[float] = []
        ends_s = self._clock() + BLOCK_S
        while not samples or not (enough.is_set() or (len(samples) >= BLOCK_RUNS and self._clock() >= ends_s)):
            before_s = self._clock()
            session.run(feeds[len(samples) % len(feeds)])
            samples.append(self._clock() - before_s)
        return samples


def _feeds(rows: Rows, size: int) -> list[Mapping[str, NDArray[Any]]]:
    starts = range(0, min(len(rows) - size + 1, FEEDS * size), size)
    return [rows.take(slice(start, start + size)).inputs for start in starts]
