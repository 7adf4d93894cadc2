"""What a study keeps: the metrics of every policy with one seed, and the rows that many seeds make."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from loadtests.bootstrap import Interval, mean_interval
from loadtests.simulation.records import Metrics
from loadtests.studies.cells import Cell
from loadtests.studies.lineup import SMALLEST

LEAST_GAP = 0.001
"""Upper bound less smallest variant, accuracy: where there is less to gain, a share of it says nothing."""


@dataclass(frozen=True, slots=True)
class SeedResult:
    """All policies on the same arrivals of one cell."""

    cell: str
    seed: int
    requests: int
    """That arrived, those of the warm-up among them."""
    span_s: float
    """Virtual time from the first to the last arrival."""
    since_s: float
    """Where the warm-up ends and counting begins."""
    upper_bound: float
    """Effective accuracy that no policy can pass, of the requests that are counted."""
    attainment_bound: float
    """Attainment that no policy can pass."""
    policies: Mapping[str, Metrics]

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "SeedResult":
        """From `facts`. Raises `TypeError` and `KeyError` for anything else."""
        policies = {name: Metrics(**metrics) for name, metrics in facts["policies"].items()}
        return cls(**{**facts, "policies": policies})


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one cell, over all seeds. Shares and times are means over the seeds, counts are sums."""

    policy: str
    attainment: float
    served_accuracy: float
    effective_accuracy: Interval
    efficiency: float
    """Effective accuracy over the upper bound."""
    headroom: Interval | None
    """(policy - smallest) / (upper bound - smallest); None where there is no room."""
    p50_ms: float
    p99_ms: float
    requests: int
    rejected: int
    expired: int
    late: int
    cpu_us_per_request: float
    """Worker time over all requests, those without an answer too, microseconds."""
    energy_mj_per_request: float
    decision_p99_us: float
    headrooms: tuple[float, ...]
    """Of each seed, over the mean room of all seeds: their mean is `headroom.mean`. Empty where there is no room."""

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell, over the seeds that are finished."""

    cell: Cell
    seeds: tuple[int, ...]
    requests: int
    """Of one run, on average."""
    span_s: float
    since_s: float
    upper_bound: Interval
    attainment_bound: float
    """Attainment that no policy can pass."""
    attainable: float
    """Attainment of the smallest variant each request may have, with earliest deadline first and early drop. In
    overload a policy can do better: what is dropped late leaves only time for small batches."""
    rows: tuple[Row, ...]

    def row(self, policy: str) -> Row | None:
        """That policy's row, if it ran."""
        return next((row for row in self.rows if row.policy == policy), None)

    @property
    def budgets(self) -> float:
        """How many of the shortest latency budgets the run spans."""
        return self.span_s * 1e3 / min(entry.latency_ms for entry in self.cell.scenario.classes)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        cell = self.cell
        return {
            "cell": cell.name,
            "family": cell.family,
            "kind": cell.kind,
            "load": cell.load,
            "cv2": cell.cv2,
            "noise": cell.noise,
            "seeds": list(self.seeds),
            "requests": self.requests,
            "span_s": self.span_s,
            "span_budgets": self.budgets,
            "warm_up_s": self.since_s,
            "upper_bound": asdict(self.upper_bound),
            "attainment_bound": self.attainment_bound,
            "attainable_attainment": self.attainable,
            "rows_per_request": {entry.name: entry.mean_rows for entry in cell.scenario.classes},
            "policies": {row.policy: row.facts() for row in self.rows},
        }


def cell_results(cells: Iterable[Cell], finished: Iterable[SeedResult]) -> list[CellResult]:
    """The cells of which any seed is finished, in the order of `cells`."""
    by_cell: dict[str, list[SeedResult]] = {}
    for result in finished:
        by_cell.setdefault(result.cell, []).append(result)
    return [_over_seeds(cell, by_cell[cell.name]) for cell in cells if cell.name in by_cell]


def _over_seeds(cell: Cell, results: Sequence[SeedResult]) -> CellResult:
    results = sorted(results, key=lambda result: result.seed)
    bounds = [result.upper_bound for result in results]
    smallest = [result.policies[SMALLEST] for result in results]
    return CellResult(
        cell=cell,
        seeds=tuple(result.seed for result in results),
        requests=round(fmean(result.requests for result in results)),
        span_s=fmean(result.span_s for result in results),
        since_s=fmean(result.since_s for result in results),
        upper_bound=mean_interval([bounds]),
        attainment_bound=fmean(result.attainment_bound for result in results),
        attainable=fmean(metrics.attainment for metrics in smallest),
        rows=tuple(
            _row(name, [result.policies[name] for result in results], smallest, bounds) for name in results[0].policies
        ),
    )


def _row(policy: str, runs: Sequence[Metrics], smallest: Sequence[Metrics], bounds: Sequence[float]) -> Row:
    requests = sum(run.requests for run in runs)
    effective = [run.effective_accuracy for run in runs]
    floor = [run.effective_accuracy for run in smallest]
    room = fmean(bounds) - fmean(floor)
    gains = [mine - least for mine, least in zip(effective, floor, strict=True)]
    headrooms = tuple(gain / room for gain in gains) if room >= LEAST_GAP else ()
    return Row(
        policy=policy,
        attainment=fmean(run.attainment for run in runs),
        served_accuracy=fmean(run.served_accuracy for run in runs),
        effective_accuracy=mean_interval([effective]),
        efficiency=fmean(effective) / fmean(bounds) if any(bounds) else 0.0,
        headroom=mean_interval([headrooms]) if headrooms else None,
        p50_ms=fmean(run.p50_ms for run in runs),
        p99_ms=fmean(run.p99_ms for run in runs),
        requests=requests,
        rejected=sum(run.rejected for run in runs),
        expired=sum(run.expired for run in runs),
        late=sum(run.late for run in runs),
        cpu_us_per_request=sum(run.cpu_s for run in runs) / requests * 1e6 if requests else 0.0,
        energy_mj_per_request=sum(run.energy_mj for run in runs) / requests if requests else 0.0,
        decision_p99_us=fmean(run.decision_p99_us for run in runs),
        headrooms=headrooms,
    )
