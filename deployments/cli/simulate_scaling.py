"""`gearshift simulate` with a scenario that has an `[autoscaling]` table: scalers compared, not policies."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtests.scaling import ScalerRow, ScalerRun, ScalingTask, run_scaling, scaler_rows
from loadtests.scenario import Scenario
from loadtests.simulation.scalers import DEFAULT, named_scaler
from loadtests.simulation.setting import Assumptions
from loadtests.studies.families import open_families
from loadtests.studies.plan import Wanted

HEADS = (
    "scaler", "attain\n%", "served\naccuracy", "effective\naccuracy", "95 %\ninterval", "p99\nms", "replica\nseconds",
    "95 %\ninterval", "most", "changes", "replicas from second on (first seed)",
)  # fmt: skip
MOST_CHANGES = 12
"""Changes of the course that fit into a line."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class ScalingStudy:
    """What was simulated, and what came of it."""

    scenario: Scenario
    command: str
    seeds: tuple[int, ...]
    requests: int
    rows: tuple[ScalerRow, ...]


def study_scaling(
    scenario: Scenario, wanted: Wanted, scalers: tuple[str, ...], command: str, jobs: int
) -> ScalingStudy:
    """Run every scaler on every seed. Raises what plan and runs raise, and `ScalerError` before anything is run."""
    served, _ = open_families(scenario.models(), wanted.repository, wanted.durations, 0.0)
    entry = scenario.autoscaling
    names = scalers or (*DEFAULT, *_frame(scenario))
    if entry is not None:
        for name in names:
            named_scaler(name, entry.rules())
    seeds = tuple(range(scenario.seed, scenario.seed + wanted.seeds))
    assumed = Assumptions(batch_overhead_s=0.0, noise=wanted.noise)
    tasks = [ScalingTask(scenario, tuple(served), names, seed, assumed) for seed in seeds]
    runs: list[ScalerRun] = []
    with closing(run_scaling(tasks, jobs)) as results:
        for result in results:
            runs += result
    requests = sum(run.requests for run in runs) // len(runs)
    return ScalingStudy(scenario, command, seeds, requests, tuple(scaler_rows(runs)))


def scaling_table(study: ScalingStudy) -> Table:
    """A row a scaler, the most accurate first."""
    first, last = study.seeds[0], study.seeds[-1]
    title = f"{study.scenario.name}: about {study.requests:,} requests a run, seeds {first} to {last}"
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
    for at, head in enumerate(HEADS):
        edge = at in (0, len(HEADS) - 1)
        table.add_column(head, justify="left" if edge else "right", no_wrap=not edge, overflow="fold")
    for row in study.rows:
        effective, cost = row.effective_accuracy, row.replica_s
        table.add_row(
            row.scaler,
            f"{100 * row.attainment:.2f}",
            f"{row.served_accuracy:.4f}",
            f"{effective.mean:.4f}",
            f"{effective.low:.4f}-{effective.high:.4f}",
            f"{row.p99_ms:.3g}",
            f"{cost.mean:.0f}",
            f"{cost.low:.0f}-{cost.high:.0f}",
            str(row.most),
            f"{row.changes:.1f}",
            _course(row),
            style="bold" if row.scaler == "signals" else "",
        )
    return table


def show_scaling(study: ScalingStudy, console: Console, json_file: Path | None) -> None:
    """Print the table, and write the JSON where it is wanted. Raises `OSError`."""
    console.print(scaling_table(study))
    if json_file is not None:
        document = {
            "format": FORMAT,
            "scenario": study.scenario.name,
            "command": study.command,
            "seeds": list(study.seeds),
            "scalers": [row.facts() for row in study.rows],
        }
        json_file.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _frame(scenario: Scenario) -> tuple[str, ...]:
    entry = scenario.autoscaling
    return () if entry is None else (f"fixed:{entry.min_replicas}", f"fixed:{entry.max_replicas}")


def _course(row: ScalerRow) -> str:
    told = [f"{second}: {replicas}" for second, replicas in row.course[:MOST_CHANGES]]
    return ", ".join(told) + (", ..." if len(row.course) > MOST_CHANGES else "")
