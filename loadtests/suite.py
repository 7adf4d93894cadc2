"""The load grid on every family that was measured: which tasks it has, and how it goes on after a stop."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from loadtests.scenario import FleetEntry
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions
from loadtests.studies.cells import Cell, Grid, grid_cells
from loadtests.studies.journal import Journal, task_keys
from loadtests.studies.lineup import suite_policies
from loadtests.studies.results import SeedResult
from loadtests.study import Task, run_tasks

WORKERS = FleetEntry().workers


def suite_cells(
    grid: Grid, families: Sequence[Served], budgets_ms: Mapping[str, float], *, noise: bool = True
) -> list[Cell]:
    """The cells of all families; `budgets_ms` by family. Without `noise` only those without service noise."""
    cells = [cell for family in families for cell in grid_cells(grid, family, budgets_ms[family.name], WORKERS)]
    return [cell for cell in cells if noise or not cell.noise]


def tasks_of(
    cells: Sequence[Cell],
    served: Mapping[str, tuple[Served, ...]],
    policies: Sequence[str],
    seeds: Sequence[int],
    assumptions: Assumptions,
) -> list[Task]:
    """Every cell with every seed; all cells with the first seed come first, so that a stop leaves the whole picture.

    `served` are the families of a cell by its `family`; without `policies` each family has `suite_policies`.
    """
    return [
        Task(
            cell=cell,
            seed=seed,
            served=served[cell.family],
            policies=tuple(policies) or suite_policies(served[cell.family][0]),
            assumptions=replace(assumptions, noise=cell.noise and assumptions.noise),
        )
        for seed in seeds
        for cell in cells
    ]


def run_with_journal(tasks: Sequence[Task], journal: Journal | None, jobs: int) -> Generator[SeedResult, None, None]:
    """The results of all tasks: first those the journal has, then the others as they end, each written down.

    Raises what `run_tasks` and `Journal` raise.
    """
    if journal is None:
        yield from run_tasks(tasks, jobs)
        return
    keys = task_keys(tasks)
    known = journal.read(keys)
    yield from (known[key] for key in keys if key in known)
    key_of = {(task.cell.name, task.seed): key for task, key in zip(tasks, keys, strict=True)}
    missing = [task for task, key in zip(tasks, keys, strict=True) if key not in known]
    with closing(run_tasks(missing, jobs)) as results:
        for result in results:
            journal.add(key_of[result.cell, result.seed], result)
            yield result
