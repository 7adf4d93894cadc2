"""From what somebody asks to compare to the tasks that are run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from loadtests.scenario import read_scenario
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions
from loadtests.studies.cells import BUDGET_MS, GRIDS, Cell
from loadtests.studies.families import open_families
from loadtests.studies.fleets import FLEET_POLICIES, FLEETS, fleet_cells
from loadtests.studies.lineup import DEFAULT, check_policies, suite_policies, with_frame
from loadtests.studies.shorten import expected_requests, resized
from loadtests.study import Task, capacities
from loadtests.suite import suite_cells, tasks_of

REQUESTS = 20_000
"""Most requests of a run of one scenario, unless told otherwise: about a second a policy."""
SUITES = (*GRIDS, FLEETS)
"""By name, what is run where no scenario is given."""
UNBOUNDED_BYTES = 1 << 50


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a study is to be like, whatever it runs."""

    repository: Path
    durations: tuple[Path, ...] = ()
    """Besides those that ship with the project."""
    policies: tuple[str, ...] = ()
    """None: the default line-up."""
    seeds: int = 5
    requests: int | None = None
    """Most requests of a run."""
    noise: bool = True
    overhead: bool = False
    """Whether the gateway's own time is simulated."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be run."""

    title: str
    cells: tuple[Cell, ...]
    tasks: tuple[Task, ...]
    weights: tuple[float, ...]
    """Requests times policies of each task: how long it takes, more or less."""
    provenance: dict[str, str]


def plan_scenario(file: Path, wanted: Wanted) -> Plan:
    """One scenario as a study of one cell. Raises `ScenarioError`, `TraceError`, `DurationsError`, `PolicyError`."""
    scenario = read_scenario(file)
    served, _ = open_families(scenario.models(), wanted.repository, wanted.durations, _batch_overhead_s(wanted))
    names = wanted.policies or DEFAULT
    check_policies(names, served)
    assumed = _assumptions(wanted, served)
    capacity = capacities(served, scenario, assumed.batch_overhead_s)
    sized = resized(scenario, capacity, 1, wanted.requests or REQUESTS)
    cell = Cell(scenario.name, scenario.name, "scenario", sized, wanted.noise)
    seeds = range(scenario.seed, scenario.seed + wanted.seeds)
    tasks = tasks_of([cell], {cell.family: served}, names, seeds, assumed)
    return _plan(f"{scenario.name}: a simulated load", [cell], tasks, wanted)


def plan_suite(name: str, wanted: Wanted) -> Plan:
    """Loads, or fleets, with every family that was measured. Raises `DurationsError`, `PolicyError`; `name` is in
    `SUITES`.
    """
    served, artifacts = open_families(None, wanted.repository, wanted.durations, _batch_overhead_s(wanted))
    policies = wanted.policies or (FLEET_POLICIES if name == FLEETS else ())
    for family in served:
        check_policies(policies or suite_policies(family), [family])
    budgets = {
        key: BUDGET_MS.get(key, artifact.family.default_budget.latency_ms) for key, artifact in artifacts.items()
    }
    by_family = {family.name: (family,) for family in served}
    seeds = range(1, wanted.seeds + 1)
    # The suites ask what time allows: at millions of rows a second the bytes a queue may hold would decide instead.
    assumed = replace(_assumptions(wanted, served), max_queue_bytes=UNBOUNDED_BYTES)
    cells = _suite_cells(name, served, budgets, wanted)
    tasks = tasks_of(cells, by_family, policies, seeds, assumed)
    title = "Fleets" if name == FLEETS else "Load grid"
    return _plan(f"{title}: {', '.join(by_family)}", cells, tasks, wanted)


def _suite_cells(name: str, served: Sequence[Served], budgets: Mapping[str, float], wanted: Wanted) -> list[Cell]:
    most = wanted.requests
    if name == FLEETS:
        cells = (fleet_cells(each, budgets[each.name], noise=wanted.noise, most=most) for each in served)
        return list(chain.from_iterable(cells))
    grid = GRIDS[name]
    if most is not None:
        grid = replace(grid, most=most, least=min(grid.least, most))
    return suite_cells(grid, served, budgets, noise=wanted.noise)


def _batch_overhead_s(wanted: Wanted) -> float:
    """What the schedulers reckon with a batch: nothing where the simulator charges nothing."""
    return Assumptions().batch_overhead_s if wanted.overhead else 0.0


def _assumptions(wanted: Wanted, served: Sequence[Served]) -> Assumptions:
    plain = Assumptions(batch_overhead_s=_batch_overhead_s(wanted))
    return replace(plain, overhead=served[0].durations.overhead) if wanted.overhead else plain


def _plan(title: str, cells: Sequence[Cell], tasks: Sequence[Task], wanted: Wanted) -> Plan:
    expected = {}
    for task in tasks:
        scenario = task.cell.scenario
        if task.cell.name not in expected:
            capacity = capacities(task.served, scenario, task.assumptions.batch_overhead_s)
            expected[task.cell.name] = expected_requests(scenario, capacity)
    served = {family.name: family for task in tasks for family in task.served}
    provenance = {f"durations of {family.durations.family}": _origin(family) for family in served.values()}
    provenance["seeds"] = f"{tasks[0].seed} to {tasks[-1].seed}" if tasks else ""
    if wanted.overhead:
        sources = {family.durations.overhead.source for family in served.values()}
        provenance["gateway's own time"] = ", ".join(sorted(sources))
    weights = tuple(expected[task.cell.name] * len(with_frame(task.policies)) for task in tasks)
    return Plan(title, tuple(cells), tuple(tasks), weights, provenance)


def _origin(family: Served) -> str:
    host = family.durations.host
    return (
        f"{host.processor}, {host.cores} cores, ONNX Runtime {host.onnxruntime}, Python {host.python}, load average "
        f"{host.load_average:g} before; {host.command}"
    )
