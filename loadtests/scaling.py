"""Simulate a scenario under several scalers with paired seeds: what each costs, and what its callers get for it."""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from loadtests.bootstrap import Interval, mean_interval
from loadtests.crew import share_out
from loadtests.scenario import Scenario, ScenarioError
from loadtests.simulation.scalers import named_scaler
from loadtests.simulation.scaling import Scaling, simulate_scaling
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions
from loadtests.study import capacities, fleet_of
from loadtests.workload import calls
from serving.core.policies.registry import LOOK_AHEAD, named_policy


@dataclass(frozen=True, slots=True)
class ScalingTask:
    """One seed of a scenario with an `[autoscaling]` table."""

    scenario: Scenario
    served: tuple[Served, ...]
    scalers: tuple[str, ...]
    seed: int
    assumptions: Assumptions


@dataclass(frozen=True, slots=True)
class ScalerRun:
    """One scaler, one seed."""

    scaler: str
    seed: int
    requests: int
    attainment: float
    served_accuracy: float
    effective_accuracy: float
    p99_ms: float
    replica_s: float
    """Replicas times seconds, those that start and those that drain included."""
    most: int
    """Replicas at the peak."""
    changes: int
    """How often another number was asked for."""
    target: tuple[int, ...]
    """Replicas asked for, second by second."""


@dataclass(frozen=True, slots=True)
class ScalerRow:
    """One scaler over all seeds."""

    scaler: str
    attainment: float
    served_accuracy: float
    effective_accuracy: Interval
    p99_ms: float
    replica_s: Interval
    most: int
    changes: float
    course: tuple[tuple[int, int], ...]
    """(second, replicas) of each change of the first seed."""

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def run_scaling_task(task: ScalingTask) -> list[ScalerRun]:
    """All scalers of one seed. Raises what `simulate_scaling` raises, `ScenarioError` and `ScalerError`."""
    entry = task.scenario.autoscaling
    if entry is None:
        raise ScenarioError(f"scenario '{task.scenario.name}' has no [autoscaling] table")
    rates = capacities(task.served, task.scenario, task.assumptions.batch_overhead_s)
    asked = list(calls(task.scenario, rates, task.seed))
    scaling = Scaling(entry.rules(), entry.start_s, entry.window_s)
    found = []
    for name in task.scalers:
        fleet = fleet_of(task.scenario)
        if name.startswith("fixed:"):
            fleet = replace(fleet, gateways=int(name.removeprefix("fixed:")))
        done = simulate_scaling(
            asked,
            task.served,
            fleet,
            named_policy(LOOK_AHEAD),
            scaling=scaling,
            scaler=named_scaler(name, scaling.rules),
            seed=task.seed,
            assumptions=task.assumptions,
        )
        metrics = done.records.metrics(task.served)
        found.append(
            ScalerRun(
                scaler=name,
                seed=task.seed,
                requests=metrics.requests,
                attainment=metrics.attainment,
                served_accuracy=metrics.served_accuracy,
                effective_accuracy=metrics.effective_accuracy,
                p99_ms=metrics.p99_ms,
                replica_s=done.ledger.replica_s,
                most=max(done.ledger.paid),
                changes=done.ledger.changes,
                target=tuple(done.ledger.target),
            )
        )
    return found


def run_scaling(tasks: Sequence[ScalingTask], jobs: int) -> Generator[list[ScalerRun], None, None]:
    """Each task's runs as it ends, from `jobs` processes; with one job here. Raises `CrewError` besides."""
    if jobs == 1 or len(tasks) <= 1:
        yield from map(run_scaling_task, tasks)
        return
    yield from share_out(run_scaling_task, tasks, min(jobs, len(tasks)))


def scaler_rows(runs: Sequence[ScalerRun]) -> list[ScalerRow]:
    """One row a scaler, the most accurate first."""
    by_scaler: dict[str, list[ScalerRun]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_scaler.setdefault(run.scaler, []).append(run)
    rows = [_row(name, of) for name, of in by_scaler.items()]
    return sorted(rows, key=lambda row: -row.effective_accuracy.mean)


def _row(name: str, runs: Sequence[ScalerRun]) -> ScalerRow:
    target = runs[0].target
    course = [(second, now) for second, now in enumerate(target) if not second or now != target[second - 1]]
    return ScalerRow(
        scaler=name,
        attainment=fmean(run.attainment for run in runs),
        served_accuracy=fmean(run.served_accuracy for run in runs),
        effective_accuracy=mean_interval([[run.effective_accuracy for run in runs]]),
        p99_ms=fmean(run.p99_ms for run in runs),
        replica_s=mean_interval([[run.replica_s for run in runs]]),
        most=max(run.most for run in runs),
        changes=fmean(run.changes for run in runs),
        course=tuple(course),
    )
