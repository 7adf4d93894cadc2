"""Exemplars of several replicas: the trace of one request beside the bucket it was counted in.

The multiprocess format has no place for them, so each process keeps a small file beside its numbers and rewrites it
whole. Only OpenMetrics shows them.
"""

from collections.abc import Mapping
from pathlib import Path

import orjson
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar as ShownExemplar

Exemplar = tuple[str, float, float]
"""Trace id, the value that was counted, and when (seconds since 1970)."""
Key = tuple[str, tuple[str, ...], str]
"""Histogram, its label values, and the bound of the bucket as it is written."""


class ExemplarFile:
    """This process's exemplars as others read them."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._path = folder / f"exemplars_{identity}.json"
        self._written = b""

    def write(self, exemplars: Mapping[Key, Exemplar]) -> None:
        """Replace what was told before; costs nothing when nothing is new."""
        told = orjson.dumps([[*key, exemplar] for key, exemplar in exemplars.items()]) if exemplars else b""
        if told != self._written:
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(told)
            fresh.replace(self._path)
            self._written = told

    def remove(self) -> None:
        """Leave with the process."""
        self._path.unlink(missing_ok=True)


def read_exemplars(folder: Path) -> dict[Key, Exemplar]:
    """The latest of all processes for each bucket."""
    found: dict[Key, Exemplar] = {}
    for file in folder.glob("exemplars_*.json"):
        try:
            rows = orjson.loads(file.read_bytes())
        except FileNotFoundError:  # its process has just stopped
            continue
        for name, labels, bound, (trace_id, value, at_s) in rows:
            key = name, tuple(labels), bound
            if key not in found or found[key][2] < at_s:
                found[key] = trace_id, value, at_s
    return found


def attach(family: Metric, labels: tuple[str, ...], exemplars: Mapping[Key, Exemplar]) -> None:
    """Put exemplars beside the buckets of a histogram with these label names."""
    for number, sample in enumerate(family.samples):
        if not sample.name.endswith("_bucket"):
            continue
        exemplar = exemplars.get((family.name, tuple(sample.labels[name] for name in labels), sample.labels["le"]))
        if exemplar is not None:
            trace_id, value, at_s = exemplar
            family.samples[number] = sample._replace(
                exemplar=ShownExemplar({"trace_id": trace_id}, value, round(at_s, 3))
            )
