from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loadtests import suite
from loadtests.simulation.setting import Assumptions
from loadtests.studies.cells import Grid
from loadtests.studies.journal import Journal
from loadtests.studies.results import SeedResult
from loadtests.study import Task
from loadtests.suite import run_with_journal, suite_cells, tasks_of
from tests.support.studies import TINY, cell, task

GRID = Grid(
    loads=(0.1, 0.9), cv2=(1, 8), calm_cv2=(8,), mixed_loads=(0.5,), budgets=20, least=50, most=500, most_rows=8
)


def test_the_tasks_cross_cells_and_seeds_and_the_first_seed_comes_first() -> None:
    cells = suite_cells(GRID, [TINY], {"tiny": 40.0})
    tasks = tasks_of(cells, {"tiny": (TINY,)}, (), (1, 2), Assumptions())
    assert len(tasks) == 2 * len(cells)
    assert [each.seed for each in tasks] == [1] * len(cells) + [2] * len(cells)
    assert {each.cell.name for each in tasks if not each.assumptions.noise} == {
        each.name for each in cells if not each.noise
    }
    assert "fixed:v1" in tasks[0].policies
    assert all(not each.noise for each in suite_cells(GRID, [TINY], {"tiny": 40.0}, noise=False))


def test_a_stopped_suite_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task(cell(requests=50), seed) for seed in (1, 2, 3)]
    journal = Journal(tmp_path / "runs.jsonl")
    begun = run_with_journal(tasks, journal, jobs=1)
    first = next(begun)
    begun.close()

    ran: list[int] = []

    def counting(tasks: Sequence[Task], jobs: int) -> Iterator[SeedResult]:
        ran.extend(each.seed for each in tasks)
        return run_tasks(tasks, jobs)

    run_tasks = suite.run_tasks
    monkeypatch.setattr(suite, "run_tasks", counting)
    found = list(run_with_journal(tasks, journal, jobs=1))
    assert found[0] == first
    assert [result.seed for result in found] == [1, 2, 3]
    assert ran == [2, 3]
