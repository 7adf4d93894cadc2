"""`gearshift simulate`: how policies would do under a load, from measured durations and the scheduler that serves."""

import shlex
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from deployments.cli.common import ModelsOption, err
from deployments.cli.simulate_scaling import show_scaling, study_scaling
from deployments.cli.simulate_tables import cell_table, cells_table, group_table
from loadtests.arrivals import TraceError
from loadtests.crew import CrewError
from loadtests.durations import DurationsError
from loadtests.scenario import Scenario, ScenarioError, read_scenario
from loadtests.simulation.events import SimulationError
from loadtests.simulation.scalers import ScalerError
from loadtests.studies.document import Study, write_json
from loadtests.studies.journal import Journal, JournalError
from loadtests.studies.plan import REQUESTS, SUITES, Plan, Wanted, plan_scenario, plan_suite
from loadtests.studies.results import SeedResult, cell_results
from loadtests.study import StudyError
from loadtests.suite import run_with_journal
from serving.catalog import demo_repository
from serving.config import usable_cores
from serving.core.policies.batching import PolicyError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""


def simulate(
    scenario: Annotated[Path | None, typer.Argument(help="Scenario file (TOML).", show_default=False)] = None,
    suite: Annotated[
        str | None, typer.Option(help=f"Instead of a scenario, many: {', '.join(SUITES)}.", show_default=False)
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Policy to compare; repeat it. Default: look-ahead and the baselines.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each, with other arrivals.")] = 5,
    requests: Annotated[
        int | None,
        typer.Option(
            min=100,
            help=f"Most requests of a run; phases are shortened alike. Default: {REQUESTS}; of a suite, its own.",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="Draw durations from the measured ones, or take their medians.")
    ] = True,
    overhead: Annotated[
        bool, typer.Option("--overhead", help="Add the gateway's own time, as the durations file tells it.")
    ] = False,
    scaler: Annotated[
        list[str] | None,
        typer.Option(
            help="For a scenario with [autoscaling]: scaler to compare; repeat it. Default: ours and the usual ones.",
            show_default=False,
        ),
    ] = None,
    durations: Annotated[
        list[Path] | None,
        typer.Option(help="Measured durations of a family; repeat it. Default: those shipped.", show_default=False),
    ] = None,
    models: ModelsOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write the results to.", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a page with pictures, and the JSON.", show_default=False)
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. Default: all cores.", show_default=False)] = None,
) -> None:
    """Simulate a load under several policies: the scheduler that serves, on workers as fast as they were measured.

    Ctrl-C keeps what is finished. A suite goes on from there when it is started again.
    """
    _check(scenario, suite, json_file, report)
    wanted = Wanted(
        repository=Path(models) if models else demo_repository(),
        durations=tuple(durations or ()),
        policies=tuple(policy or ()),
        seeds=seeds,
        requests=requests,
        noise=noise,
        overhead=overhead,
    )
    try:
        scaled = read_scenario(scenario) if scenario else None
        if scaled is not None and scaled.autoscaling is not None:
            if report is not None:
                raise typer.BadParameter("a scenario with [autoscaling] has no --report: use --json")
            _simulate_scaling(scaled, wanted, tuple(scaler or ()), json_file, jobs or usable_cores())
            return
        if scaler:
            raise typer.BadParameter("--scaler needs a scenario with an [autoscaling] table")
        plan = plan_suite(suite, wanted) if suite else plan_scenario(scenario or Path(), wanted)
        journal = Journal(report / "runs.jsonl" if report else Path(f"{json_file}l")) if suite else None
        finished, complete = _run(plan, journal, jobs or usable_cores())
        if finished:
            command = shlex.join(["gearshift", *sys.argv[1:]])
            results = cell_results(plan.cells, finished)
            study = Study(plan.title, command, complete, overhead, plan.provenance, results)
            _show(study)
            _write(study, json_file, report)
    except (ScenarioError, TraceError, DurationsError, PolicyError, ScalerError) as error:
        _fail(str(error), 2)
    except (StudyError, SimulationError, JournalError, CrewError) as error:
        _fail(str(error), 1)
    if not complete:
        err.print(f"stopped: {len(finished)} of {len(plan.tasks)} runs were finished", highlight=False)
        raise typer.Exit(INTERRUPTED)


def _simulate_scaling(
    scenario: Scenario, wanted: Wanted, scalers: tuple[str, ...], json_file: Path | None, jobs: int
) -> None:
    """Scalers instead of policies; replicas start and stop in seconds, so that nothing can be shortened."""
    if wanted.policies or wanted.requests or wanted.overhead:
        raise typer.BadParameter("a scenario with [autoscaling] takes --scaler, --seeds, --no-noise and --json only")
    study = study_scaling(scenario, wanted, scalers, shlex.join(["gearshift", *sys.argv[1:]]), jobs)
    try:
        show_scaling(study, Console(width=None if sys.stdout.isatty() else WIDTH), json_file)
    except OSError as error:
        _fail(f"{error.filename}: the results cannot be written: {error.strerror}", 1)


def _check(scenario: Path | None, suite: str | None, json_file: Path | None, report: Path | None) -> None:
    """What can be wrong with the command line itself, told before anything is run."""
    if (scenario is None) == (suite is None):
        raise typer.BadParameter("give a scenario file, or --suite: one of them")
    if suite is not None and suite not in SUITES:
        raise typer.BadParameter(f"there is no suite '{suite}'; there are: {', '.join(SUITES)}")
    if suite is not None and json_file is None and report is None:
        raise typer.BadParameter("a suite takes long and goes on from its files: give --report FOLDER or --json FILE")
    if report is not None and find_spec("matplotlib") is None:
        raise typer.BadParameter(
            "--report draws with matplotlib, which is missing: pip install matplotlib, or use --json"
        )
    for folder in (report, json_file and json_file.parent):
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise typer.BadParameter(f"{folder}: cannot be written to: {error.strerror}") from None


def _run(plan: Plan, journal: Journal | None, jobs: int) -> tuple[list[SeedResult], bool]:
    """The results, and whether they are all there: Ctrl-C ends it early."""
    finished: list[SeedResult] = []
    weight = {(task.cell.name, task.seed): each for task, each in zip(plan.tasks, plan.weights, strict=True)}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    with (
        Progress(*columns, *left, console=err, disable=not err.is_terminal) as progress,
        closing(run_with_journal(plan.tasks, journal, jobs)) as results,
    ):
        bar = progress.add_task(f"{len(plan.tasks)} runs", total=sum(plan.weights))
        try:
            for result in results:
                finished.append(result)
                progress.update(
                    bar,
                    advance=weight[result.cell, result.seed],
                    description=f"{len(finished)} of {len(plan.tasks)}: {result.cell}",
                )
        except KeyboardInterrupt:
            return finished, False
    return finished, True


def _show(study: Study) -> None:
    out = Console(width=None if sys.stdout.isatty() else WIDTH)
    if len(study.results) == 1:
        out.print(cell_table(study.results[0]))
        return
    if all(result.cell.kind == "fleet" for result in study.results):
        out.print(cells_table(study.results))
        return
    for group in study.groups:
        out.print(group_table(group))


def _write(study: Study, json_file: Path | None, report: Path | None) -> None:
    try:
        if json_file is not None:
            write_json(json_file, study)
        if report is not None:
            from loadtests.report import write_report  # draws with matplotlib, which only a report needs

            page, *_ = write_report(report, study)
            typer.echo(f"report: {page}")
    except OSError as error:
        _fail(f"{error.filename}: the results cannot be written: {error.strerror}", 1)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"gearshift: {message}", err=True)
    raise typer.Exit(code)
