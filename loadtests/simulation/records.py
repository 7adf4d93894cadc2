"""What is kept of a run: a few numbers a request and a batch, and the metrics made of them."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.simulation.pool import Batch
from loadtests.simulation.served import Served
from serving.core.outcome import Outcome

OUTCOMES = tuple(Outcome)
CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}
"""How outcomes are written into a record."""
_OPEN = -1
_MET, _LATE = CODE[Outcome.MET], CODE[Outcome.LATE]


@dataclass(frozen=True, slots=True)
class Metrics:
    """What came of a run, or of the part of it that arrived in a window. Shares and accuracies count rows."""

    requests: int
    rows: int
    attainment: float
    """Share of rows answered in time; what was refused counts as missed."""
    served_accuracy: float
    """Mean accuracy of the rows answered in time; 0 when there are none."""
    effective_accuracy: float
    """Mean accuracy over all rows, those not answered in time counting 0."""
    p50_ms: float
    """Latency of answered requests, late ones too, milliseconds; 0 when there are none."""
    p99_ms: float
    rejected: int
    """Requests refused at the door, those that were `infeasible` among them."""
    infeasible: int
    """Requests whose budget no variant can ever meet."""
    expired: int
    late: int
    batches: int
    mean_batch_rows: float
    cpu_s: float
    """Worker time of all batches."""
    energy_mj: float
    decision_p99_us: float
    """Time of one decision on the machine that simulated. Of the whole run, whatever the window."""
    variant_rows: dict[str, dict[str, int]]
    """Rows answered in time, by model and variant."""


class Records:
    """Columns of numbers; a request is known by its place."""

    def __init__(self) -> None:
        self.at_s = array("d")
        self.kind = array("h")
        self.model = array("h")
        self.rows = array("l")
        self.outcome = array("b")
        self.variant = array("h")
        self.latency_s = array("d")
        self.infeasible = array("l")
        """Numbers of the requests that no variant can ever meet."""
        self.batch_at_s = array("d")
        self.batch_model = array("h")
        self.batch_variant = array("h")
        self.batch_rows = array("l")
        self.batch_s = array("d")
        self.decision_s = array("d")

    def __len__(self) -> int:
        return len(self.at_s)

    def arrived(self, at_s: float, kind: int, model: int, rows: int) -> int:
        """A new request; returns its number."""
        number = len(self.at_s)
        self.at_s.append(at_s)
        self.kind.append(kind)
        self.model.append(model)
        self.rows.append(rows)
        self.outcome.append(_OPEN)
        self.variant.append(-1)
        self.latency_s.append(0.0)
        return number

    def ended(self, number: int, outcome: int, variant: int = -1, latency_s: float = 0.0) -> None:
        """How a request ended. Raises `ValueError` when it has ended before: each ends exactly once."""
        if self.outcome[number] != _OPEN:
            raise ValueError(f"request {number} ended as {OUTCOMES[self.outcome[number]]}, and again")
        self.outcome[number] = outcome
        if variant >= 0:
            self.variant[number] = variant
            self.latency_s[number] = latency_s

    def refused_for_ever(self, number: int) -> None:
        """A request that no variant can ever meet."""
        self.ended(number, CODE[Outcome.REJECTED])
        self.infeasible.append(number)

    def ran(self, batch: Batch) -> None:
        """A batch that has ended."""
        self.batch_at_s.append(batch.decided_s)
        self.batch_model.append(batch.model)
        self.batch_variant.append(batch.variant)
        self.batch_rows.append(batch.rows)
        self.batch_s.append(batch.service_s)

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        return self.outcome.tobytes().count(b"\xff")

    def metrics(self, served: Sequence[Served], *, since_s: float = 0.0, kind: int | None = None) -> Metrics:
        """Metrics of the requests that arrived at `since_s` or later, of one class or of all.

        Batches, which classes share, are counted by their start, whatever the class.
        """
        counted = _column(self.at_s) >= since_s
        if kind is not None:
            counted &= _column(self.kind) == kind
        outcome = _column(self.outcome)[counted]
        rows, model = _column(self.rows)[counted], _column(self.model)[counted]
        variant = _column(self.variant)[counted]
        met = outcome == _MET
        answered = met | (outcome == _LATE)
        accuracy = np.zeros(len(outcome))
        variant_rows: dict[str, dict[str, int]] = {}
        for number, family in enumerate(served):
            names = variant_rows[family.name] = {}
            for view in family.variants:
                here = met & (model == number) & (variant == view.index)
                accuracy[here] = view.accuracy
                names[view.name] = int(rows[here].sum())
        latency_ms = _column(self.latency_s)[counted][answered] * 1e3
        total, met_rows = int(rows.sum()), int(rows[met].sum())
        worth = float((accuracy * rows).sum())
        batches = _column(self.batch_at_s) >= since_s
        batch_rows, batch_s = _column(self.batch_rows)[batches], _column(self.batch_s)[batches]
        return Metrics(
            requests=len(outcome),
            rows=total,
            attainment=met_rows / total if total else 1.0,
            served_accuracy=worth / met_rows if met_rows else 0.0,
            effective_accuracy=worth / total if total else 0.0,
            p50_ms=_quantile(latency_ms, 0.5),
            p99_ms=_quantile(latency_ms, 0.99),
            rejected=int((outcome == CODE[Outcome.REJECTED]).sum()),
            infeasible=int(counted[_column(self.infeasible)].sum()),
            expired=int((outcome == CODE[Outcome.EXPIRED]).sum()),
            late=int((outcome == _LATE).sum()),
            batches=len(batch_rows),
            mean_batch_rows=float(batch_rows.mean()) if len(batch_rows) else 0.0,
            cpu_s=float(batch_s.sum()),
            energy_mj=self._energy_mj(served, batches, batch_s),
            decision_p99_us=_quantile(_column(self.decision_s), 0.99) * 1e6,
            variant_rows=variant_rows,
        )

    def _energy_mj(self, served: Sequence[Served], counted: NDArray[np.bool_], seconds: NDArray[Any]) -> float:
        model, variant = _column(self.batch_model)[counted], _column(self.batch_variant)[counted]
        joules = 0.0
        for number, family in enumerate(served):
            watts = np.array(family.watts)
            here = model == number
            joules += float((watts[variant[here]] * seconds[here]).sum())
        return joules * 1e3


def _column(values: "array[Any]") -> NDArray[Any]:
    return np.frombuffer(values, dtype=values.typecode) if len(values) else np.zeros(0, dtype=values.typecode)


def _quantile(values: NDArray[Any], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else 0.0
