"""Simulate scenarios under many policies with paired seeds: every policy meets the same requests.

The unit of work is one cell with one seed, all policies in turn: its requests are made once, and its upper bound is
worked out once.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from loadtests.bound import BatchCost, Bound, demands_of, upper_bound
from loadtests.crew import CrewError, share_out
from loadtests.scenario import Scenario, ScenarioError
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions, Fleet
from loadtests.simulator import simulate
from loadtests.studies.cells import Cell
from loadtests.studies.lineup import policy_for, with_frame
from loadtests.studies.results import SeedResult
from loadtests.workload import Call, calls, capacity_rows_s
from serving.core.latency import LatencyTable
from serving.core.policies.batching import largest_batch

WARM_UP_BUDGETS, MOST_WARM_UP = 8.0, 0.5
"""What arrives in the first budgets, but at most this share of the run, is simulated and not counted. At 1.15 of the
capacity a queue takes seven budgets to fill: before, whoever starts with an empty one loses nothing."""


class StudyError(RuntimeError):
    """A study that could not be carried through; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Task:
    """One cell with one seed."""

    cell: Cell
    seed: int
    served: tuple[Served, ...]
    policies: tuple[str, ...]
    """`lineup.SMALLEST` is run whether or not it is among them."""
    assumptions: Assumptions
    """Its `noise` is the cell's."""


def run_task(task: Task) -> SeedResult:
    """Simulate one cell with one seed. Raises `ScenarioError`, `TraceError`, `PolicyError`, `SimulationError`."""
    scenario = task.cell.scenario
    fleet = fleet_of(scenario)
    asked = list(calls(scenario, capacities(task.served, scenario, task.assumptions.batch_overhead_s), task.seed))
    if not asked:
        raise ScenarioError(f"scenario '{scenario.name}': no request arrives before it ends; make it longer")
    span_s = asked[-1].at_s - asked[0].at_s
    since_s = _warm_up_s(scenario, asked[0].at_s, span_s)
    counted = [call for call in asked if call.at_s >= since_s]
    found = {}
    for name in with_frame(task.policies):
        policy = policy_for(name, span_s)
        result = simulate(asked, task.served, fleet, policy, seed=task.seed, assumptions=task.assumptions)
        found[name] = result.metrics(since_s=since_s)
    costs = _least_costs(counted, task.served)
    bound = _bound(counted, task.served, costs, fleet.total_workers)
    # Where every answer is worth the same, what can be earned is what can be answered.
    alike = {name: tuple(BatchCost(1.0, cost.seconds) for cost in each) for name, each in costs.items()}
    reachable = _bound(counted, task.served, alike, fleet.total_workers)
    return SeedResult(
        cell=task.cell.name,
        seed=task.seed,
        requests=len(asked),
        span_s=span_s,
        since_s=since_s,
        upper_bound=bound.effective_accuracy,
        attainment_bound=reachable.effective_accuracy,
        policies=found,
    )


def run_tasks(tasks: Sequence[Task], jobs: int) -> Generator[SeedResult, None, None]:
    """Each task's result as it ends, from `jobs` processes; with one job here and in order.

    To stop early, close the iterator: the processes end at once. Raises what `run_task` raises, and `StudyError`.
    """
    if jobs == 1 or len(tasks) <= 1:
        yield from map(run_task, tasks)
        return
    try:
        yield from share_out(run_task, tasks, min(jobs, len(tasks)))
    except CrewError as error:
        raise StudyError(f"{error} (--jobs)") from error


def fleet_of(scenario: Scenario) -> Fleet:
    """What serves, as the simulator takes it."""
    entry = scenario.fleet
    return Fleet(
        entry.workers,
        entry.gateways,
        split=entry.topology == "split",
        two_choices=entry.routing == "two-choices",
        staleness_s=entry.staleness_ms / 1e3,
        weights=entry.weights,
    )


def capacities(served: Sequence[Served], scenario: Scenario, batch_overhead_s: float) -> Mapping[str, float]:
    """What the scenario's loads are fractions of, rows a second, by model."""
    workers = scenario.fleet.total_workers
    return {family.name: capacity_rows_s(family.variants, workers, batch_overhead_s) for family in served}


def _warm_up_s(scenario: Scenario, first_s: float, span_s: float) -> float:
    budget_s = max(entry.latency_ms for entry in scenario.classes) / 1e3
    return first_s + min(WARM_UP_BUDGETS * budget_s, MOST_WARM_UP * span_s)


def _bound(
    counted: Sequence[Call], served: Sequence[Served], costs: Mapping[str, tuple[BatchCost, ...]], workers: int
) -> Bound:
    views = {family.name: family.variants for family in served}
    return upper_bound(demands_of(counted, views, costs), workers)


def _least_costs(counted: Sequence[Call], served: Sequence[Served]) -> Mapping[str, tuple[BatchCost, ...]]:
    """What the simulator charges for each variant's batches when it charges least: median times, however busy."""
    sizes = (largest_batch(view) for family in served for view in family.variants)
    most = max(chain((call.rows for call in counted), sizes))
    found = {}
    for family in served:
        costs = []
        for view in family.variants:
            levels = family.durations.of(view.name).levels
            tables = [LatencyTable(level.rows, level.medians_s()) for level in (levels[0], levels[-1])]
            least = [min(table.seconds(rows) for table in tables) for rows in range(1, most + 1)]
            costs.append(BatchCost.measured(view.accuracy, least))
        found[family.name] = tuple(costs)
    return found
