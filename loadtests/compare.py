"""Do live and simulated runs agree? `python -m loadtests.compare LIVE SIMULATED [LIVE SIMULATED ...]`.

Each pair is one policy. Exit code 1, with the table, when one differs by more than 2 points of attainment or 1 point
of effective accuracy, or when a live run is not valid; 2 for files that cannot be compared.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.live import LiveError, LiveRun, read_live_run
from serving.core.policies.registry import LOOK_AHEAD

ATTAINMENT_POINTS = 2.0
ACCURACY_POINTS = 1.0
"""Most that live and simulated may differ, percentage points."""


class CompareError(ValueError):
    """Files that cannot be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is compared of a run, or the mean of several with different seeds."""

    label: str
    attainment: float
    effective_accuracy: float
    invalid: str = ""
    """Why a live run may not be quoted."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One policy, live and simulated."""

    live: Figures
    simulated: Figures

    @property
    def attainment_points(self) -> float:
        """Live minus simulated."""
        return 100 * (self.live.attainment - self.simulated.attainment)

    @property
    def accuracy_points(self) -> float:
        """Live minus simulated, of effective accuracy."""
        return 100 * (self.live.effective_accuracy - self.simulated.effective_accuracy)

    @property
    def agrees(self) -> bool:
        """Whether both are within the limits, and the live run is valid."""
        return (
            not self.live.invalid
            and abs(self.attainment_points) <= ATTAINMENT_POINTS
            and abs(self.accuracy_points) <= ACCURACY_POINTS
        )


def read_pair(live_path: Path, simulated_path: Path) -> Comparison:
    """A live run and what `gearshift simulate --json` wrote of the same scenario.

    The live run's label names the policy, `look-ahead` where it has none; the simulation's warm-up is left out of
    both. Raises `LiveError` and `CompareError`.
    """
    run = read_live_run(live_path)
    policy = run.label or LOOK_AHEAD
    cell = _cell(simulated_path, run.scenario)
    try:
        row = cell["policies"].get(policy)
        if row is None:
            raise CompareError(
                f"{simulated_path}: policy '{policy}' was not simulated, only {', '.join(cell['policies'])}; name the "
                f"live run's policy with gearshift loadtest --label"
            )
        simulated = Figures(policy, float(row["attainment"]), float(row["effective_accuracy"]["mean"]))
        return Comparison(live_figures(run, float(cell["warm_up_s"])), simulated)
    except (KeyError, TypeError, AttributeError) as error:
        raise CompareError(f"{simulated_path}: not what gearshift simulate --json writes: {error!r}") from error


def live_figures(run: LiveRun, since_s: float) -> Figures:
    """Of the requests intended at `since_s` or later."""
    metrics = run.metrics_since(since_s)
    return Figures(
        run.label or LOOK_AHEAD, metrics.attainment, metrics.effective_accuracy, run.ended or run.sender.advice
    )


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A line a policy."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("policy", no_wrap=True)
    for column in ("attainment live", "simulated", "points", "effective accuracy live", "simulated", "points"):
        table.add_column(column, justify="right")
    table.add_column("")
    for item in comparisons:
        table.add_row(
            item.live.label,
            f"{item.live.attainment:.4f}",
            f"{item.simulated.attainment:.4f}",
            f"{item.attainment_points:+.2f}",
            f"{item.live.effective_accuracy:.4f}",
            f"{item.simulated.effective_accuracy:.4f}",
            f"{item.accuracy_points:+.2f}",
            f"not valid: {item.live.invalid}" if item.live.invalid else "agrees" if item.agrees else "DIFFERS",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="LIVE SIMULATED", help="pairs of JSON files")
    options = parser.parse_args(arguments)
    if len(options.files) % 2:
        parser.error("give pairs: each live file with its simulated one")
    pairs = zip(options.files[::2], options.files[1::2], strict=True)
    try:
        done = [read_pair(live, simulated) for live, simulated in pairs]
    except (CompareError, LiveError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    Console(width=None if sys.stdout.isatty() else 160).print(comparison_table(done))
    return 0 if all(item.agrees for item in done) else 1


def _cell(path: Path, scenario: str) -> dict[str, Any]:
    """The cell of that scenario in a study's file."""
    try:
        cells = {cell["cell"]: cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}
    except OSError as error:
        raise CompareError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CompareError(f"{path}: not what gearshift simulate --json writes: {error!r}") from error
    if scenario not in cells:
        raise CompareError(f"{path}: scenario '{scenario}' was not simulated, only {', '.join(cells)}")
    found: dict[str, Any] = cells[scenario]
    return found


if __name__ == "__main__":
    sys.exit(main())
