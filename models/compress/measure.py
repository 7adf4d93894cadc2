"""Figures to publish of variants beside the original: how good, how fast, how large, at what energy.

Times are taken with the session that serves, on real inputs, in turns: in each turn every variant runs between two
runs of the reference, and only its ratio to those counts. What slows the host for seconds slows both alike.
"""

import math
import os
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.compress.dataset import Rows
from models.compress.energy import Source, open_meter
from models.compress.memory import measure_memory
from models.compress.original import Original, are_probabilities, scores_of
from models.compress.race import Mode, Race
from models.evaluate import Accuracy
from models.session import Session

MOST_TURNS = 15
SMALLEST_SHARE = 1e-9
"""Probability below which the logarithm is not followed."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the answers of a variant are."""

    metric: Literal["top-1", "agreement"]
    """What `accuracy` counts: right labels, or the original's class where nobody labelled."""
    accuracy: Accuracy
    agreement: Accuracy
    """Rows for which it chooses the original's class."""
    kl: float
    """Mean divergence KL(original || variant) of the class probabilities, nats; infinite if it answers NaN."""

    def facts(self) -> dict[str, Any]:
        """As plain values; an infinite divergence is null."""
        return {
            "metric": self.metric,
            "accuracy": self.accuracy.value,
            "interval": list(self.accuracy.interval),
            "right": self.accuracy.right,
            "samples": self.accuracy.samples,
            "agreement": self.agreement.value,
            "kl_nats": self.kl if math.isfinite(self.kl) else None,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """A variant's figure as a multiple of the reference's: the median of the turns, and their middle half."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one batch size."""

    rows: int
    median_s: float
    p95_s: float
    runs: int
    ratio: Ratio

    def facts(self) -> dict[str, Any]:
        """As plain values, milliseconds."""
        return {
            "rows": self.rows,
            "median_ms": self.median_s * 1e3,
            "p95_ms": self.p95_s * 1e3,
            "runs": self.runs,
            "ratio": asdict(self.ratio),
        }


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a variant is."""

    alone: tuple[Timing, ...]
    """With one batch at a time, sizes rising."""
    busy: tuple[Timing, ...]
    """With as many batches at a time as there are workers."""
    workers: int
    turns: int
    energy_mj: float
    """Millijoules a row costs in batches of one, all workers busy."""
    energy_source: Source

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "alone": [timing.facts() for timing in self.alone],
            "busy": [timing.facts() for timing in self.busy],
            "workers": self.workers,
            "turns": self.turns,
            "energy_mj": self.energy_mj,
            "energy_source": self.energy_source,
        }


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a variant takes on disk, on the wire and in memory."""

    size_bytes: int
    stored_bytes: int
    """Deflated, as an image layer or a download."""
    memory_bytes: int | None
    """Resident memory that loading it and running one batch adds to a process; None where it cannot be told."""

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def measure_accuracy(content: bytes, original: Original, rows: Rows) -> Quality:
    """Compare a variant's answers with the labels and with the original's. Rows answered NaN are wrong.

    Raises `ModelLoadError` and `ModelRunError`.
    """
    reference = original.scores(rows)
    same = content == original.content
    scores = reference if same else scores_of(Session(content), original.output.name, rows)
    usable = np.isfinite(scores).all(axis=1)
    chosen = np.where(usable, scores.argmax(axis=1), -1)
    agreed = Accuracy(int((chosen == reference.argmax(axis=1)).sum()), len(rows))
    truth = agreed if rows.labels is None else Accuracy(int((chosen == rows.labels).sum()), len(rows))
    divergence = _divergence(reference, scores) if usable.all() else math.inf
    return Quality("agreement" if rows.labels is None else "top-1", truth, agreed, divergence)


def measure_footprint(content: bytes, rows: Rows) -> Footprint:
    """Size, deflated size and memory of a variant."""
    return Footprint(
        size_bytes=len(content),
        stored_bytes=len(zlib.compress(content)),
        memory_bytes=measure_memory(content, rows.take(slice(0, 1)).inputs),
    )


def measure_speed(
    contents: Mapping[str, bytes],
    original: Original,
    rows: Rows,
    *,
    limit_s: float,
    workers: int | None = None,
    watts_per_core: float = 10.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Speed]:
    """Time variants in turns with the original, within `limit_s` seconds all together.

    The largest batch sizes are left out where the time would not allow some turns of them; one turn of single
    rows is taken in any case. The original, if it is among the variants, is timed like any other: how far its ratio
    is from 1 shows the noise. `workers` defaults to the usable cores. Raises `ModelLoadError` and
    `ModelRunError`.
    """
    ends_s = clock() + limit_s
    meter = open_meter(watts_per_core)
    sessions = {name: Session(content) for name, content in contents.items()}
    with Race(original.session, sessions, rows, workers or len(os.sched_getaffinity(0)), meter, clock) as race:
        sizes, turn_s = race.rehearse(limit_s)
        turns = 0
        while turns < MOST_TURNS and (turns == 0 or clock() + turn_s < ends_s):
            started_s = clock()
            race.turn(turns, sizes)
            turn_s = max(turn_s, clock() - started_s)
            turns += 1
    return {name: _speed(race, name, sizes, turns, meter.source) for name in contents}


def _speed(race: Race, name: str, sizes: Sequence[int], turns: int, source: Source) -> Speed:
    alone, busy = (tuple(_timing(race, name, mode, size) for size in sizes) for mode in (race.modes[0], race.modes[-1]))
    energy_mj = statistics.median(race.joules_a_row[name]) * 1e3
    return Speed(alone, busy, race.workers, turns, energy_mj, source)


def _timing(race: Race, name: str, mode: Mode, size: int) -> Timing:
    samples = race.samples[name, mode, size]
    low, middle, high = np.percentile(race.ratios[name, mode, size], [25, 50, 75]).tolist()
    p95_s = float(np.percentile(samples, 95))
    return Timing(size, statistics.median(samples), p95_s, len(samples), Ratio(middle, low, high))


def _divergence(reference: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Mean KL divergence, nats. What scores mean is the original's to say: rounding must not change it."""
    probabilities = are_probabilities(reference)
    p, q = (_shares(each.astype(np.float64), probabilities=probabilities) for each in (reference, scores))
    return float(max(0.0, (p * (np.log(p) - np.log(q))).sum(axis=1).mean()))


def _shares(scores: NDArray[np.float64], *, probabilities: bool) -> NDArray[np.float64]:
    raw = scores if probabilities else np.exp(scores - scores.max(axis=1, keepdims=True))
    raw = np.maximum(raw, SMALLEST_SHARE)
    shares: NDArray[np.float64] = raw / raw.sum(axis=1, keepdims=True)
    return shares
