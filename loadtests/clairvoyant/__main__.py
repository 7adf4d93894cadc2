"""`python -m loadtests.clairvoyant`: how much of the bound a schedule that knows the future reaches, load by load."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from loadtests.arrivals import TraceError
from loadtests.clairvoyant.search import BEAM
from loadtests.clairvoyant.study import Compared, StudyError, compare
from loadtests.clairvoyant.table import table_of
from loadtests.crew import CrewError, share_out
from loadtests.durations import DurationsError
from loadtests.scenario import ScenarioError
from loadtests.studies.cells import GRIDS
from loadtests.studies.plan import Wanted, plan_suite
from loadtests.study import Task
from serving.catalog import demo_repository
from serving.core.policies.registry import LOOK_AHEAD

WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.clairvoyant", description=__doc__)
    parser.add_argument("--suite", choices=tuple(GRIDS), default="quick", help="grid of loads")
    parser.add_argument("--models", type=Path, help="repository of families; default: the demo's")
    parser.add_argument("--families", nargs="+", help="default: all that were measured")
    parser.add_argument("--cells", nargs="+", default=(), help="only loads whose names contain one of these texts")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--beam", type=int, default=BEAM, help="labels kept of each request")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    if min(options.seeds, options.beam, options.jobs) < 1:
        parser.error("--seeds, --beam and --jobs must be at least 1")
    try:
        tasks = _tasks(options)
        if not tasks:
            parser.error("no load of the suite has that family and name")
        found, complete = _run(tasks, options.beam, options.jobs)
        if found:
            Console(width=None if sys.stdout.isatty() else WIDTH).print(table_of(found))
        if options.json is not None:
            facts = {"complete": complete, "beam": options.beam, "loads": [each.facts() for each in found]}
            options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except (DurationsError, ScenarioError, TraceError, StudyError, CrewError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    return 0 if complete else INTERRUPTED


def _tasks(options: argparse.Namespace) -> list[Task]:
    """The loads of one class below the capacity, without service noise."""
    wanted = Wanted(options.models or demo_repository(), policies=(LOOK_AHEAD,), seeds=options.seeds, noise=False)
    return [
        task
        for task in plan_suite(options.suite, wanted).tasks
        if (task.cell.load or 0.0) < 1
        and len(task.cell.scenario.classes) == 1
        and (not options.families or task.cell.family in options.families)
        and (not options.cells or any(text in task.cell.name for text in options.cells))
    ]


def _run(tasks: Sequence[Task], beam: int, jobs: int) -> tuple[list[Compared], bool]:
    """What was finished, and whether that is all: Ctrl-C keeps what there is."""
    found: list[Compared] = []
    results = share_out(partial(compare, beam=beam), tasks, jobs)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("loads", total=len(tasks))
        try:
            for result in results:
                found.append(result)
                progress.advance(bar)
        except KeyboardInterrupt:
            return found, False
        finally:
            results.close()
    order = {(task.cell.name, task.seed): place for place, task in enumerate(tasks)}
    return sorted(found, key=lambda each: order[each.cell, each.seed]), True


if __name__ == "__main__":
    raise SystemExit(main())
