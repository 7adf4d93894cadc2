"""Measured service times of a family's batches, with one and with all workers busy: what a simulation draws from.

The file is JSON. Times are kept sample by sample, in microseconds, so that a simulation repeats the noise that was
measured and not a shape somebody assumed.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtests.documents import read_document
from models.manifest import LatencyProfile
from serving.core.latency import LatencyTable

Microseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
UNIFORMS = 16_384
"""Random numbers drawn at a time: one by one they would cost more than everything they are used for."""


class DurationsError(ValueError):
    """Measured durations that cannot be used; the message names the file, or what is missing in it."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Level(_Strict):
    """One variant's batches while `busy` workers (this one counted) were busy."""

    busy: Annotated[int, Field(ge=1)]
    rows: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    samples_us: tuple[Annotated[tuple[Microseconds, ...], Field(min_length=1)], ...]
    """All times of each size."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.rows) != len(self.samples_us) or list(self.rows) != sorted(set(self.rows)):
            raise ValueError("'rows' must rise and have one list of samples each")
        return self

    def medians_s(self) -> tuple[float, ...]:
        """Median time of each size, seconds."""
        return tuple(statistics.median(samples) / 1e6 for samples in self.samples_us)


class VariantDurations(_Strict):
    """One variant's times."""

    name: str
    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    """One busy worker first, all of them last."""


class Overhead(_Strict):
    """The gateway's own time, microseconds. All but `travel_us` is spent in the gateway's event loop."""

    source: Literal["none", "assumed", "measured"] = "none"
    parse_us: Annotated[float, Field(ge=0)] = 0.0
    """From the receipt of a request to the door."""
    hand_off_us: Annotated[float, Field(ge=0)] = 0.0
    """From the decision on a batch until it is on its way to its worker."""
    travel_us: Annotated[float, Field(ge=0)] = 0.0
    """A batch's way to its worker, and as much for the way back."""
    render_us: Annotated[float, Field(ge=0)] = 0.0
    """An answer, from the batch's return until it is sent."""


class Host(_Strict):
    """Where, when and how the times were measured."""

    processor: str
    cores: Annotated[int, Field(ge=1)]
    onnxruntime: str
    python: str
    command: str
    load_average: float
    """Of the minute before: well above 0 means that others were measured too."""
    seed: int


class Durations(_Strict):
    """All times of one family on one host."""

    format: Literal[1] = 1
    family: str
    """Name and version, as "name/version"."""
    host: Host
    overhead: Overhead = Overhead()
    variants: Annotated[tuple[VariantDurations, ...], Field(min_length=1)]

    def of(self, variant: str) -> VariantDurations:
        """The times of that variant. Raises `DurationsError`."""
        for entry in self.variants:
            if entry.name == variant:
                return entry
        raise DurationsError(
            f"no durations of variant '{variant}' of {self.family}: there are {[v.name for v in self.variants]}; "
            f"measure the family again"
        )

    def profiles(self, watts_per_core: float = 10.0) -> dict[str, LatencyProfile]:
        """What a scheduler believes at its start: the median times with one busy worker, by variant name."""
        found = {}
        for variant in self.variants:
            level = variant.levels[0]
            seconds = level.medians_s()
            found[variant.name] = LatencyProfile(
                rows=level.rows,
                seconds=seconds,
                energy_mj_per_row=seconds[0] / level.rows[0] * watts_per_core * 1e3,
                energy_source="estimate" if watts_per_core > 0 else "none",
            )
        return found


def read_durations(path: Path) -> Durations:
    """Read and check a file. Raises `DurationsError`."""
    return read_document(Durations, path, "a file of durations", DurationsError)


class Sampler:
    """Draws service times of one family, variants numbered as they are listed.

    Between the measured sizes the median is interpolated, as `LatencyTable` does, and multiplied by observed / median
    of a sample of the nearest size. Between one and all workers busy the median moves in a straight line.
    """

    def __init__(
        self, durations: Durations, variants: Sequence[str], workers: int, seed: int, *, noise: bool = True
    ) -> None:
        """`workers` that make a host fully busy; without `noise` every batch takes its median.

        Raises `DurationsError` for a variant without durations.
        """
        entries = [durations.of(name) for name in variants]
        self._calm = [_Times(entry.levels[0]) for entry in entries]
        self._full = [_Times(entry.levels[-1]) for entry in entries]
        self._others = max(1, workers - 1)
        self._noise = noise
        self._uniform = uniforms(seed)

    def draw(self, variant: int, rows: int, busy: int) -> float:
        """Seconds that a batch takes which starts as the `busy`-th busy worker."""
        calm, full = self._calm[variant], self._full[variant]
        share = min(1.0, (busy - 1) / self._others)
        median_s = calm.median_s(rows)
        if share:
            median_s += share * (full.median_s(rows) - median_s)
        if not self._noise:
            return median_s
        ratios = (full if share >= 0.5 else calm).ratios(rows)
        return median_s * ratios[int(next(self._uniform) * len(ratios))]


class _Times:
    """Medians and ratios of one level, ready to be looked up by rows."""

    def __init__(self, level: Level) -> None:
        medians_s = level.medians_s()
        self.median_s = LatencyTable(level.rows, medians_s).seconds
        by_size = [
            [sample / 1e6 / median_s for sample in samples]
            for samples, median_s in zip(level.samples_us, medians_s, strict=True)
        ]
        most = level.rows[-1]
        self._nearest = [by_size[_nearest(level.rows, rows)] for rows in range(1, most + 1)]

    def ratios(self, rows: int) -> list[float]:
        """Observed over median of the nearest size."""
        return self._nearest[min(rows, len(self._nearest)) - 1]


def uniforms(seed: int, stream: int = 0) -> Iterator[float]:
    """Endless random numbers from [0, 1): each (seed, stream) its own sequence."""
    rng = np.random.default_rng([seed, stream])
    while True:
        yield from rng.random(UNIFORMS).tolist()


def _nearest(sizes: Sequence[int], rows: int) -> int:
    """Place of the size nearest to `rows` in ratio."""
    return min(range(len(sizes)), key=lambda at: max(sizes[at] / rows, rows / sizes[at]))
