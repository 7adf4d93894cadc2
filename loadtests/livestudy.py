"""Live runs as a study, so that they have the tables and pictures of simulated ones.

What a live run cannot have is simulated on the very same requests, from the profile that the gateway tells: the upper
bound, and the smallest variant that headroom is counted from.
"""

from collections.abc import Sequence
from dataclasses import replace

from loadtests.live import LiveRun
from loadtests.scenario import Scenario
from loadtests.simulation.setting import Assumptions
from loadtests.studies.cells import Cell
from loadtests.studies.document import Study
from loadtests.studies.results import SeedResult, cell_results
from loadtests.study import Task, run_task
from loadtests.target import served_as_told
from serving.core.policies.registry import LOOK_AHEAD


def live_study(runs: Sequence[LiveRun], scenario: Scenario, command: str) -> Study:
    """One cell: the scenario, with a row for each label among the runs. Runs (at least one) may differ in their seeds.

    Raises what `run_task` raises.
    """
    cell = Cell(scenario.name, scenario.name, "scenario", scenario)
    seeds = sorted({run.seed for run in runs})
    results = [_seed(cell, [run for run in runs if run.seed == seed]) for seed in seeds]
    return Study(
        title=f"{scenario.name}: a live load on {runs[0].host}",
        command=command,
        complete=all(run.complete for run in runs),
        overhead=True,
        provenance={
            "measured": "live, each latency from the intended send",
            "upper bound and smallest variant": "simulated, from the profile the gateway tells",
            "valid": "yes" if all(run.valid for run in runs) else "NO: " + "; ".join(_faults(runs)),
            "seeds": ", ".join(map(str, seeds)),
        },
        results=cell_results([cell], results),
    )


def _seed(cell: Cell, runs: Sequence[LiveRun]) -> SeedResult:
    """The runs of one seed, beside the simulated frame."""
    served = tuple(served_as_told(metadata) for metadata in runs[0].models.values())
    frame = run_task(Task(cell, runs[0].seed, served, (), Assumptions()))
    measured = {run.label or LOOK_AHEAD: run.metrics_since(frame.since_s) for run in runs}
    return replace(frame, policies={**frame.policies, **measured})


def _faults(runs: Sequence[LiveRun]) -> list[str]:
    return sorted({fault for run in runs for fault in (run.ended, run.sender.advice) if fault})
