"""What a compression came to: every variant with its figures, what was dropped and why, and what it all depends on."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import psutil

from models.calibrate import processor
from models.compress.measure import Footprint, Quality, Speed

FORMAT = 1
LIBRARIES = ("onnxruntime", "onnx", "numpy", "onnxslim", "onnxscript", "optuna", "scikit-learn", "skl2onnx", "torch")


@dataclass(frozen=True, slots=True)
class Entry:
    """A variant that was made and measured."""

    name: str
    recipe: tuple[Mapping[str, Any], ...]
    """The facts of its steps, in order; none: the model as it was given."""
    quality: Quality
    speed: Speed
    footprint: Footprint
    kept: bool
    """Whether it is published."""
    why: str = ""
    """Why it is kept or not, for people."""

    @property
    def accuracy(self) -> float:
        """Share of the test rows it gets right, 0 to 1."""
        return self.quality.accuracy.value

    @property
    def latency_ms(self) -> float:
        """Median time of one row alone, milliseconds."""
        return self.speed.alone[0].median_s * 1e3


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried and never became a variant to measure."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much is lost when one layer alone is compressed: what the search learnt first."""

    layers: tuple[tuple[str, float], ...]
    """Names and losses, in the order of the graph."""
    unit: str
    """What a loss of 1 is, such as `KL divergence, nats`."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that is told of one run."""

    model: str
    reference: str
    """Name of the entry that the ratios refer to: the original."""
    entries: tuple[Entry, ...]
    dropped: tuple[Attempt, ...]
    command: str
    """What makes all of this again."""
    seed: int
    digest: str
    """SHA-256 of the data and its split."""
    rows: Mapping[str, int]
    """How many rows each share had that were used: train, validation, test."""
    given: Mapping[str, int] = field(default_factory=dict)
    """How many there were; where that is more, there was no time for all of them."""
    sha256: str = ""
    """Of the original."""
    gates: Mapping[str, Any] = field(default_factory=dict)
    """What the caller demanded of each variant; None: nothing."""
    sensitivity: Sensitivity | None = None
    spent_s: float | None = None
    """Work that the search took, seconds."""
    host: Mapping[str, Any] = field(default_factory=lambda: host_facts())
    versions: Mapping[str, str] = field(default_factory=lambda: version_facts())

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if self.reference not in names or len(set(names)) != len(names):
            raise ValueError(f"entries {names}: expected '{self.reference}' among them, and each name once")

    @property
    def original(self) -> Entry:
        """The entry that the ratios refer to."""
        return next(entry for entry in self.entries if entry.name == self.reference)

    def kept(self) -> list[Entry]:
        """The published variants, the most accurate first, of equals the fastest."""
        return in_order(entry for entry in self.entries if entry.kept)

    def facts(self) -> dict[str, Any]:
        """As plain values: `report.json`."""
        return {
            "format": FORMAT,
            "model": self.model,
            "original": {"name": self.reference, "sha256": self.sha256},
            "command": self.command,
            "seed": self.seed,
            "data": {"sha256": self.digest, "rows": dict(self.rows), "given": dict(self.given or self.rows)},
            "gates": dict(self.gates),
            "spent_s": self.spent_s,
            "host": dict(self.host),
            "versions": dict(self.versions),
            "variants": [entry_facts(entry, self.original) for entry in in_order(self.entries)],
            "dropped": [{"name": attempt.name, "why": attempt.why} for attempt in self.dropped],
            "sensitivity": None
            if self.sensitivity is None
            else {
                "unit": self.sensitivity.unit,
                "layers": [{"name": name, "loss": loss} for name, loss in self.sensitivity.layers],
            },
        }


def in_order(entries: Any) -> list[Entry]:
    """The most accurate first, of equals the fastest."""
    return sorted(entries, key=lambda entry: (-entry.accuracy, entry.latency_ms, entry.name))


def entry_facts(entry: Entry, original: Entry) -> dict[str, Any]:
    """One variant as plain values, its ratios to the original among them."""
    speed, footprint = entry.speed.facts(), entry.footprint.facts()
    return {
        "name": entry.name,
        "kept": entry.kept,
        "why": entry.why,
        "recipe": [dict(step) for step in entry.recipe],
        **entry.quality.facts(),
        "latency_ms": {str(timing["rows"]): timing for timing in speed.pop("alone")},
        "busy_latency_ms": {str(timing["rows"]): timing for timing in speed.pop("busy")},
        **speed,
        **footprint,
        "ratios": ratios(entry, original),
    }


def ratios(entry: Entry, original: Entry) -> dict[str, float | None]:
    """A variant's figures over the original's, and the accuracy it loses (negative: it gains).

    Latency is of one row alone, from pairs of neighbouring measurements, not from the medians shown beside it.
    """
    memory = (entry.footprint.memory_bytes, original.footprint.memory_bytes)
    return {
        "size": entry.footprint.size_bytes / original.footprint.size_bytes,
        "stored": entry.footprint.stored_bytes / original.footprint.stored_bytes,
        "memory": memory[0] / memory[1] if memory[0] is not None and memory[1] else None,
        "latency": 1.0 if entry is original else entry.speed.alone[0].ratio.median,
        "busy_latency": 1.0 if entry is original else entry.speed.busy[0].ratio.median,
        "energy": entry.speed.energy_mj / original.speed.energy_mj if original.speed.energy_mj else None,
        "accuracy_loss": original.accuracy - entry.accuracy,
    }


def host_facts() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(psutil.virtual_memory().total),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def version_facts(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of what made the variants, those that are installed."""
    found = {"python": platform.python_version()}
    for library in libraries:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
