"""Every metric of the gateway, and how several replicas of a node make one right page of them.

The hot path adds to plain Python numbers; a few times a second what changed is written to memory-mapped
files in one folder a node, in the format of prometheus-client's multiprocess mode. Whichever replica is
scraped adds up the files of all, the dead ones too, so counters never fall. (Observing into
prometheus-client's own multiprocess histograms costs 4 microseconds each time; a tenth of that is left.)
"""

import os
import secrets
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from serving.exemplars import Exemplar, ExemplarFile, Key, attach, read_exemplars

SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
RATIO = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One line of the metric table."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    mode: Literal["livesum", "livemin", "livemax"] = "livesum"
    """How the gauges of several replicas become one."""


_MODEL = ("model", "version")

TABLE = (
    Spec("gearshift_request_duration_seconds", "histogram", (*_MODEL, "variant", "outcome"),
         "From the receipt of a request to its outcome.", SECONDS),
    Spec("gearshift_queue_duration_seconds", "histogram", _MODEL,
         "From the receipt of a request to the start of its batch.", SECONDS),
    Spec("gearshift_compute_duration_seconds", "histogram", (*_MODEL, "variant"),
         "Time the model took for one batch.", SECONDS),
    Spec("gearshift_batch_rows", "histogram", (*_MODEL, "variant"), "Rows of one batch.", ROWS),
    Spec("gearshift_batches_total", "counter", (*_MODEL, "rows"), "Batches that were run, by their exact rows."),
    Spec("gearshift_batch_stage_seconds_total", "counter", (*_MODEL, "rows", "stage"),
         "Time of these batches: merging the requests (input), the model (infer), splitting its answer (output)."),
    Spec("gearshift_last_inference_time_seconds", "gauge", _MODEL,
         "When the latest request was answered, seconds since 1970.", mode="livemax"),
    Spec("gearshift_prediction_error_ratio", "histogram", _MODEL,
         "Observed over predicted time of a batch.", RATIO),
    Spec("gearshift_selection_total", "counter", (*_MODEL, "variant", "reason"),
         "Requests answered, by the variant that answered and why it was chosen."),
    Spec("gearshift_outcome_total", "counter", (*_MODEL, "outcome"), "Requests by how they ended."),
    Spec("gearshift_rows_total", "counter", (*_MODEL, "outcome"), "Rows by how they ended."),
    Spec("gearshift_accuracy_total", "counter", _MODEL,
         "Accuracy delivered: each row answered in time adds the accuracy of its variant."),
    Spec("gearshift_accuracy_forgone_total", "counter", _MODEL,
         "Accuracy given up because of load: each row adds the accuracy of the best variant its budget allows, less "
         "that of the one that answered it in time; all of it where load left none to."),
    Spec("gearshift_energy_joules_total", "counter", (*_MODEL, "source"),
         "Energy spent on batches; the source says how it is known."),
    Spec("gearshift_worker_busy_seconds_total", "counter", (), "Time workers spent on batches."),
    Spec("gearshift_decode_seconds_total", "counter", _MODEL, "Time spent on turning bodies into tensors."),
    Spec("gearshift_encode_seconds_total", "counter", _MODEL, "Time spent on turning tensors into answers."),
    Spec("gearshift_refused_total", "counter", ("status",),
         "Inference requests answered with an error, by HTTP status or gRPC code."),
    Spec("gearshift_queue_rows", "gauge", _MODEL, "Rows waiting."),
    Spec("gearshift_queue_bytes", "gauge", _MODEL, "Input bytes waiting."),
    Spec("gearshift_work_queued_seconds", "gauge", _MODEL,
         "Worker time that the rows waiting would take at the accuracy wanted."),
    Spec("gearshift_demand_workers", "gauge", _MODEL,
         "Workers that the rows arriving would keep busy at the accuracy wanted."),
    Spec("gearshift_workers", "gauge", (), "Workers of the replicas that live."),
    Spec("gearshift_workers_busy", "gauge", (), "Workers that run a batch."),
    Spec("gearshift_connections", "gauge", (), "Open client connections."),
    Spec("gearshift_slowdown_ratio", "gauge", _MODEL,
         "How much slower batches are than when they were calibrated.", mode="livemin"),
    Spec("gearshift_model_loads_total", "counter", ("model", "result"),
         "Versions of a model that were loaded, failed to load or were unloaded, a replica each."),
    Spec("gearshift_variant_ready", "gauge", (*_MODEL, "variant"),
         "1 when every replica can serve the variant.", mode="livemin"),
    Spec("gearshift_cache_lookups_total", "counter", (*_MODEL, "result"),
         "Requests to a model whose answers are kept, by whether a kept one was given."),
    Spec("gearshift_cache_lookup_seconds_total", "counter", (*_MODEL, "result"),
         "Time spent on looking for kept answers."),
    Spec("gearshift_cache_evictions_total", "counter", (*_MODEL, "cause"), "Kept answers that were dropped."),
    Spec("gearshift_cache_bytes", "gauge", _MODEL, "Memory that kept answers take."),
    Spec("gearshift_remote_failures_total", "counter", (*_MODEL, "variant"),
         "Batches that the endpoint of a remote variant did not answer as it must."),
    Spec("gearshift_replicas", "gauge", ("role",), "Replicas that live: gateways, and in split the workers."),
    Spec("gearshift_replica_starts_total", "counter", ("role",),
         "Replicas that were started: a server that does not change has one for each."),
    Spec("gearshift_process_start_time_seconds", "gauge", ("role",),
         "When the youngest replica was started, seconds since 1970.", mode="livemax"),
    Spec("gearshift_process_resident_memory_bytes", "gauge", ("role",),
         "Memory of the replicas; pages they share count in each."),
    Spec("gearshift_process_open_fds", "gauge", ("role",), "Open files and sockets of the replicas."),
    Spec("gearshift_process_cpu_seconds_total", "counter", ("role",), "Processor time of the replicas."),
    Spec("gearshift_spans_total", "counter", ("result",), "Spans of traces, by what came of sending them."),
    Spec("gearshift_build_info", "gauge", ("build", "python", "onnxruntime"),
         "1; the labels say what runs.", mode="livemax"),
)  # fmt: skip

DERIVED = (
    Spec("gearshift_effective_accuracy", "gauge", _MODEL,
         "Mean accuracy over all rows since the start; a row not answered in time counts 0."),
    Spec("gearshift_worker_busy_ratio", "gauge", (), "Share of workers that run a batch."),
)  # fmt: skip
"""Made when the page is asked for, out of the sums over all replicas."""

_SPECS = {spec.name: spec for spec in TABLE}


class Counter:
    """A number that rises, or (as a gauge) is set. Add to `value` directly."""

    __slots__ = ("value", "written")

    def __init__(self) -> None:
        self.value = 0.0
        self.written = -1.0


class Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("bounds", "counts", "exemplars", "total", "written")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.written = -1
        self.exemplars: dict[int, Exemplar] | None = None

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def exemplify(self, value: float, trace_id: str) -> None:
        """Show this trace beside the bucket that `value` was counted in, instead of the one before."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, value)] = trace_id, value, time.time()


class Metrics:
    """This process's numbers, and the node's page.

    Every label value comes from the served families or from our own code, never from a caller.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is shared by the replicas of one node and belongs to one run of the server."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._series: dict[tuple[str, tuple[str, ...]], Counter | Histogram] = {}
        self._identity = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._files: dict[str, MmapedDict] = {}
        self._exemplars = ExemplarFile(folder, self._identity)

    def counter(self, name: str, *labels: str) -> Counter:
        """The counter or gauge of these label values, made at its first use. Keep it: this is a look-up."""
        series = self._series.get((name, labels))
        if series is None:
            self._expect(name, labels, histogram=False)
            series = self._series[name, labels] = Counter()
        if not isinstance(series, Counter):
            raise TypeError(f"{name} is a histogram")
        return series

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The histogram of these label values, made at its first use. Keep it: this is a look-up."""
        series = self._series.get((name, labels))
        if series is None:
            self._expect(name, labels, histogram=True)
            series = self._series[name, labels] = Histogram(_SPECS[name].buckets)
        if not isinstance(series, Histogram):
            raise TypeError(f"{name} is not a histogram")
        return series

    def flush(self) -> None:
        """Write what changed since the last time to this process's files."""
        for (name, labels), series in self._series.items():
            spec = _SPECS[name]
            if isinstance(series, Counter):
                if series.value != series.written:
                    self._write(spec, name, spec.labels, labels, series.value)
                    series.written = series.value
                continue
            count = sum(series.counts)
            if count == series.written:
                continue
            self._write(spec, f"{name}_sum", spec.labels, labels, series.total)
            for bound, hits in zip((*series.bounds, float("inf")), series.counts, strict=True):
                self._write(spec, f"{name}_bucket", (*spec.labels, "le"), (*labels, floatToGoString(bound)), hits)
            series.written = count
        self._exemplars.write(self._told_exemplars())

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """The node's page and its content type: every replica, living or dead, added up. Takes milliseconds.

        `accept`: the scraper's header. One that asks for OpenMetrics gets exemplars too; all others the plain text.
        """
        families = self.collect()
        open_metrics = "application/openmetrics-text" in accept
        if open_metrics:
            exemplars = read_exemplars(self._folder)
            for family in families:
                if exemplars and family.type == "histogram":
                    attach(family, _SPECS[family.name].labels, exemplars)
        registry = CollectorRegistry()
        registry.register(_Fixed(families))
        if open_metrics:
            return bytes(openmetrics.generate_latest(registry)), openmetrics.CONTENT_TYPE_LATEST
        return bytes(generate_latest(registry)), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> list[Metric]:
        """The node's metrics as last written, with those derived from sums over all replicas.

        Only reads files, so it may run in a thread beside the loop. This process's own are as old as its last `flush`.
        """
        _drop_dead_gauges(self._folder)
        families: list[Metric] = list(MultiProcessCollector(None, path=str(self._folder)).collect())
        by_name = {family.name: family for family in families}
        return [*families, *_derive(by_name)]

    def close(self) -> None:
        """Write the last numbers and let go of the files. Gauges leave with their process."""
        self.flush()
        for kind, file in self._files.items():
            file.close()
            if kind.startswith("gauge"):
                (self._folder / f"{kind}_{self._identity}.db").unlink(missing_ok=True)
        self._files.clear()
        self._exemplars.remove()

    def _expect(self, name: str, labels: tuple[str, ...], *, histogram: bool) -> None:
        spec = _SPECS.get(name)
        if spec is None or len(labels) != len(spec.labels) or histogram != (spec.kind == "histogram"):
            raise TypeError(f"{name}{labels} does not fit the metric table")

    def _write(self, spec: Spec, sample: str, names: tuple[str, ...], values: tuple[str, ...], value: float) -> None:
        kind = f"gauge_{spec.mode}" if spec.kind == "gauge" else spec.kind
        file = self._files.get(kind)
        if file is None:
            file = self._files[kind] = MmapedDict(str(self._folder / f"{kind}_{self._identity}.db"))
        family = spec.name.removesuffix("_total")  # the reader puts the suffix of a counter back
        file.write_value(mmap_key(family, sample, names, values, spec.help), value, 0.0)

    def _told_exemplars(self) -> dict[Key, Exemplar]:
        """This process's, by the bucket they are shown beside."""
        return {
            (name, labels, floatToGoString((*series.bounds, float("inf"))[bucket])): exemplar
            for (name, labels), series in self._series.items()
            if isinstance(series, Histogram) and series.exemplars is not None
            for bucket, exemplar in series.exemplars.items()
        }


class _Fixed:
    """A collector of metrics that are already there."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def samples(families: Iterable[Metric], name: str) -> Iterator[tuple[dict[str, str], float]]:
    """(labels, value) of every sample called `name`."""
    for family in families:
        for sample in family.samples:
            if sample.name == name:
                yield dict(sample.labels), float(sample.value)


def _derive(families: dict[str, Metric]) -> Iterator[Metric]:
    present = families.values()
    arrived: dict[tuple[str, str], float] = {}
    for labels, value in samples(present, "gearshift_rows_total"):
        key = labels["model"], labels["version"]
        arrived[key] = arrived.get(key, 0.0) + value
    delivered = {(lb["model"], lb["version"]): v for lb, v in samples(present, "gearshift_accuracy_total")}
    effective, busy = DERIVED
    if delivered:
        family = GaugeMetricFamily(effective.name, effective.help, labels=effective.labels)
        for key, rows in arrived.items():
            if key in delivered and rows:
                family.add_metric(key, delivered[key] / rows)
        yield family
    workers = sum(value for _, value in samples(present, "gearshift_workers"))
    if workers:
        running = sum(value for _, value in samples(present, "gearshift_workers_busy"))
        yield GaugeMetricFamily(busy.name, busy.help, value=running / workers)


def _drop_dead_gauges(folder: Path) -> None:
    """A gauge speaks of a living process; one that was killed cannot take its own back. Nor its exemplars."""
    for file in (*folder.glob("gauge_*.db"), *folder.glob("exemplars_*.json")):
        pid = file.stem.rpartition("_")[2].partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            file.unlink(missing_ok=True)


def stat(families: Iterable[Metric], name: str, **labels: Any) -> float:
    """Sum of the samples called `name` whose labels include these."""
    return sum(value for has, value in samples(families, name) if labels.items() <= has.items())
