"""A small study for tests: the family of `tests.support.views` and loads that take milliseconds to simulate."""

from collections.abc import Sequence
from typing import Any

from loadtests.scenario import Scenario
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions
from loadtests.studies.cells import Cell
from loadtests.studies.results import CellResult, cell_results
from loadtests.study import Task, run_task
from tests.support.durations import durations_of
from tests.support.views import small_and_large

TINY = Served("tiny", small_and_large(), durations_of({"v0": (1, 2, 4, 8), "v1": (10, 20, 40, 80)}))
"""1 ms at accuracy 0.6, and 10 ms at 0.9; two workers do 2000 rows a second of the small one."""


def scenario(load: float = 0.1, requests: int = 300, **more: Any) -> Scenario:
    """Poisson arrivals of single rows with a budget of 40 ms."""
    return Scenario.model_validate(
        {
            "name": "tiny-load",
            "requests": requests,
            "arrivals": {"kind": "poisson", "load": load},
            "classes": [{"name": "plain", "model": "tiny", "latency_ms": 40}],
        }
        | more
    )


def cell(name: str = "tiny load", *, load: float = 0.1, cv2: float = 1.0, noise: bool = True, **more: Any) -> Cell:
    """A steady cell."""
    return Cell(name, "tiny", "steady", scenario(load, **more), noise, load, cv2)


def task(where: Cell, seed: int = 1, policies: Sequence[str] = ("look-ahead", "max-accuracy")) -> Task:
    """That cell with one seed."""
    assumed = Assumptions(noise=where.noise, batch_overhead_s=0.0)
    return Task(where, seed, (TINY,), tuple(policies), assumed)


def grid_results(loads: Sequence[float] = (0.05, 0.5), cv2: Sequence[float] = (1.0, 4.0)) -> list[CellResult]:
    """Two by two loads with two seeds."""
    cells = [cell(f"load {load:g} cv2 {burst:g}", load=load, cv2=burst) for load in loads for burst in cv2]
    return cell_results(cells, [run_task(task(each, seed)) for each in cells for seed in (1, 2)])
