"""What was measured: samples by cell, their median and spread, what failed; and the JSON file of it."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from loadtests.benchmark.load import LoadResult, merge_errors
from loadtests.benchmark.wire import BodyFormat


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What one number in the table is about."""

    server: str
    body_format: BodyFormat
    connections: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One window of load on one cell."""

    repeat: int
    load: LoadResult
    cpu_s: float
    """User + system CPU seconds of the server's process tree over the window."""
    warmup_errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def cpu_us_per_request(self) -> float:
        """CPU microseconds of the server a request; NaN when nothing was answered."""
        return self.cpu_s * 1e6 / self.load.requests if self.load.requests else math.nan

    @property
    def errors(self) -> dict[str, int]:
        """Errors by kind, those of the warm-up included."""
        return merge_errors(self.load.errors, self.warmup_errors)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Summarize `values`, NaN left out; all NaN when nothing remains."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan, math.nan)
        return cls(statistics.median(known), min(known), max(known))


@dataclass(frozen=True, slots=True)
class Summary:
    """One cell over all its repeats."""

    repeats: int
    rps: Spread
    p50_s: Spread
    p99_s: Spread
    cpu_us: Spread
    """CPU microseconds a request."""
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Failure:
    """A server that could not be measured, and why."""

    server: str
    repeat: int
    reason: str


@dataclass(slots=True)
class Results:
    """All that a run knows; grows while it runs, so that an interrupted run keeps what it has."""

    command: str
    facts: Mapping[str, str]
    settings: Mapping[str, Any]
    samples: dict[Cell, list[Sample]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    complete: bool = False

    def add(self, cell: Cell, sample: Sample) -> None:
        """Keep one more sample of `cell`."""
        self.samples.setdefault(cell, []).append(sample)

    def summary(self, cell: Cell) -> Summary:
        """Return the median and spread of `cell`; raises `KeyError` when it has no sample."""
        samples = self.samples[cell]
        return Summary(
            repeats=len(samples),
            rps=Spread.of(sample.load.rps for sample in samples),
            p50_s=Spread.of(sample.load.p50_s for sample in samples),
            p99_s=Spread.of(sample.load.p99_s for sample in samples),
            cpu_us=Spread.of(sample.cpu_us_per_request for sample in samples),
            errors=merge_errors(*(sample.errors for sample in samples)),
        )

    @property
    def sound(self) -> bool:
        """Whether every server started, answered right, and made no error."""
        return not self.failures and not any(
            sample.errors or not sample.load.requests for samples in self.samples.values() for sample in samples
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file; NaN becomes null."""
        cells = [
            asdict(cell) | {"summary": asdict(self.summary(cell)), "samples": [_plain(s) for s in samples]}
            for cell, samples in self.samples.items()
        ]
        document = {
            "schema_version": 1,
            "complete": self.complete,
            "command": self.command,
            "facts": dict(self.facts),
            "settings": dict(self.settings),
            "cells": cells,
            "failures": [asdict(failure) for failure in self.failures],
        }
        return {key: _without_nan(value) for key, value in document.items()}

    def save_json(self, path: Path) -> None:
        """Write the JSON file at once, so that no reader sees half of it."""
        save_text(path, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")


def save_text(path: Path, text: str) -> None:
    """Write `text` to `path` through a draft beside it; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text)
    draft.replace(path)


def _plain(sample: Sample) -> dict[str, Any]:
    return asdict(sample) | {"rps": sample.load.rps, "cpu_us_per_request": sample.cpu_us_per_request}


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value
