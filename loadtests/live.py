"""A finished live run: its file, and the same records and metrics of it as a simulation has.

What only the server sees is derived from its answers: a batch is counted by its shares, each answer being rows /
batch_rows of one. That is exact when all callers of those batches belong to the run. Decision times are not visible
from outside and read 0.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtests.answers import INFEASIBLE
from loadtests.documents import read_document
from loadtests.samples import COLUMNS, Samples
from loadtests.scenario import Scenario
from loadtests.simulation.records import CODE, Metrics, Records
from loadtests.simulation.served import Served
from loadtests.simulator import Result
from loadtests.target import served_as_told
from serving.core.outcome import Outcome

LAG_SHARE = 0.1
"""Most of a request's budget that the generator's own lateness may take in the 99th percentile."""
TOO_LATE = (
    "the generator sent too late for its figures to hold: lower the rate, add generator processes (--processes), or "
    "give it cores that the server does not use"
)
TOO_FEW = (
    "every sender was waiting for an answer when others were due: raise --connections, or shorten the time for which "
    "the server may keep callers waiting"
)
_ROUND = {"at_s": 6, "latency_s": 6, "lag_s": 6, "compute_s": 6}


class LiveError(ValueError):
    """A file that holds no live run; the message names it and what is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Sender(_Strict):
    """The generator's own health."""

    processes: Annotated[int, Field(ge=1)]
    unsent: Annotated[int, Field(ge=0)]
    """Requests given up because no sender was free within their budgets; they count as failed."""
    lag_p50_ms: float
    """How much later than intended sending began."""
    lag_p99_ms: float
    lag_most_ms: float
    lag_p99_share: float
    """99th percentile of the lag as a share of the request's own budget."""
    kept_up: bool
    advice: str = ""
    """What to do when it did not keep up."""


class LiveRun(_Strict):
    """One run against a live host, as its file holds it."""

    format: Literal[1] = 1
    source: Literal["live"] = "live"
    scenario: str
    scenario_sha256: str
    seed: int
    host: str
    label: str = ""
    """What the caller calls it, such as the policy the server runs."""
    started: str
    """Date and time, ISO."""
    command: str
    classes: tuple[str, ...]
    """Class names, in the order of the scenario."""
    models_of_classes: tuple[str, ...]
    workers: int
    """Of the scenario's fleet."""
    models: dict[str, dict[str, Any]]
    """What the host told of each model when the run began."""
    capacity: dict[str, float]
    """Rows a second, what a `load` was a fraction of."""
    complete: bool
    ended: str = ""
    """Why it is not complete."""
    sender: Sender
    metrics: Metrics
    by_class: dict[str, Metrics]
    failed: int
    """Requests that failed or were cut: neither answered nor refused."""
    problems: dict[str, int]
    """What was wrong with them, and how often."""
    requests: dict[str, list[float] | list[int]]
    """One entry a request in each column of `loadtests.samples.COLUMNS`, in the order of their intended sends."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.requests) != set(COLUMNS) or len({len(column) for column in self.requests.values()}) != 1:
            raise ValueError(f"'requests' must hold columns of equal length: {', '.join(COLUMNS)}")
        return self

    @property
    def valid(self) -> bool:
        """Whether its figures may be quoted."""
        return self.complete and self.sender.kept_up

    def result(self) -> Result:
        """As a simulation would have returned it, but for the batches, which no caller sees one by one."""
        return _result(self._columns(), self._served(), self.classes, self.models_of_classes, self.workers)

    def metrics_since(self, since_s: float) -> Metrics:
        """Of the requests intended at `since_s` or later."""
        return _metrics(self.result(), self._columns(), self._served(), self.models_of_classes, since_s=since_s)

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {name: np.array(values) for name, values in self.requests.items()}

    def _served(self) -> tuple[Served, ...]:
        return tuple(served_as_told(metadata) for metadata in self.models.values())


def live_run(
    samples: Samples,
    scenario: Scenario,
    *,
    models: dict[str, dict[str, Any]],
    capacity: dict[str, float],
    processes: int,
    ended: str = "",
    **facts: Any,
) -> LiveRun:
    """Sum a run up. `ended` says why it is not complete; `facts` are the plain fields of `LiveRun`."""
    order = np.argsort(np.frombuffer(samples.columns["at_s"], dtype="d"), kind="stable")
    columns = {name: np.array(column, dtype=column.typecode)[order] for name, column in samples.columns.items()}
    served = tuple(served_as_told(metadata) for metadata in models.values())
    classes = tuple(entry.name for entry in scenario.classes)
    models_of_classes = tuple(entry.model for entry in scenario.classes)
    result = _result(columns, served, classes, models_of_classes, scenario.fleet.total_workers)
    budgets_s = np.array([entry.latency_ms / 1e3 for entry in scenario.classes])[columns["kind"].astype(int)]
    failed = np.isin(columns["outcome"], [CODE[Outcome.FAILED], CODE[Outcome.CANCELLED]])
    return LiveRun(
        scenario=scenario.name,
        classes=classes,
        models_of_classes=models_of_classes,
        workers=scenario.fleet.total_workers,
        models=models,
        capacity=capacity,
        complete=not ended,
        ended=ended,
        sender=_sender(columns["lag_s"], budgets_s, processes, samples.unsent),
        metrics=_metrics(result, columns, served, models_of_classes),
        by_class={
            name: _metrics(result, columns, served, models_of_classes, kind=number)
            for number, name in enumerate(classes)
        },
        failed=int(failed.sum()),
        problems=dict(samples.problems.most_common()),
        requests={name: np.round(values, _ROUND.get(name, 0)).tolist() for name, values in columns.items()},
        **facts,
    )


def read_live_run(path: Path) -> LiveRun:
    """Read and check a file. Raises `LiveError`."""
    return read_document(LiveRun, path, "the file of a live run", LiveError)


def _sender(lag_s: NDArray[Any], budgets_s: NDArray[Any], processes: int, unsent: int) -> Sender:
    share = float(np.quantile(lag_s / budgets_s, 0.99)) if len(lag_s) else 0.0
    p50_s, p99_s, most_s = np.quantile(lag_s, (0.5, 0.99, 1.0)) if len(lag_s) else (0.0, 0.0, 0.0)
    advice = TOO_FEW if unsent else TOO_LATE if share > LAG_SHARE else ""
    return Sender(
        processes=processes,
        unsent=unsent,
        lag_p50_ms=round(float(p50_s) * 1e3, 3),
        lag_p99_ms=round(float(p99_s) * 1e3, 3),
        lag_most_ms=round(float(most_s) * 1e3, 3),
        lag_p99_share=round(share, 4),
        kept_up=not advice,
        advice=advice,
    )


def _result(
    columns: dict[str, NDArray[Any]],
    served: tuple[Served, ...],
    classes: tuple[str, ...],
    models_of_classes: Sequence[str],
    workers: int,
) -> Result:
    numbers = {family.name: number for number, family in enumerate(served)}
    kinds = columns["kind"].astype(int)
    records = Records()
    records.at_s = array("d", columns["at_s"].tolist())
    records.kind = array("h", kinds.tolist())
    records.model = array("h", [numbers[models_of_classes[kind]] for kind in kinds.tolist()])
    records.rows = array("l", columns["rows"].astype(int).tolist())
    records.outcome = array("b", columns["outcome"].astype(int).tolist())
    records.variant = array("h", columns["variant"].astype(int).tolist())
    records.latency_s = array("d", columns["latency_s"].tolist())
    records.infeasible = array("l", np.flatnonzero(columns["status"] == INFEASIBLE).tolist())
    ended_s = float((columns["at_s"] + columns["latency_s"]).max()) if len(kinds) else 0.0
    busy_s = float((_batches(columns) * columns["compute_s"]).sum())
    return Result(records, served, classes, ended_s, busy_s / (ended_s * workers) if ended_s else 0.0)


def _metrics(
    result: Result,
    columns: dict[str, NDArray[Any]],
    served: tuple[Served, ...],
    models_of_classes: Sequence[str],
    *,
    kind: int | None = None,
    since_s: float = 0.0,
) -> Metrics:
    """Of all classes or of one; batches are the shares its own answers had in them."""
    counted = columns["at_s"] >= since_s
    if kind is not None:
        counted &= columns["kind"] == kind
    batches = _batches(columns)[counted]
    seconds = batches * columns["compute_s"][counted]
    watts = {family.name: family.watts for family in served}
    joules = sum(
        watts[models_of_classes[int(of_kind)]][int(variant)] * spent_s
        for of_kind, variant, spent_s in zip(
            columns["kind"][counted], columns["variant"][counted], seconds, strict=True
        )
        if spent_s
    )
    count = float(batches.sum())
    rows = float(columns["rows"][counted][batches > 0].sum())
    return replace(
        result.records.metrics(served, kind=kind, since_s=since_s),
        batches=round(count),
        mean_batch_rows=rows / count if count else 0.0,
        cpu_s=float(seconds.sum()),
        energy_mj=float(joules) * 1e3,
    )


def _batches(columns: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The share each request had in its batch; 0 for those that were not in any."""
    ran = (columns["batch_rows"] > 0) & (columns["variant"] >= 0)
    shares: NDArray[np.float64] = np.divide(columns["rows"], columns["batch_rows"], out=np.zeros(len(ran)), where=ran)
    return shares
