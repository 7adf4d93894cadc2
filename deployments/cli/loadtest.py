"""`gearshift loadtest`: a scenario against a running gateway."""

import shlex
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from deployments.cli.common import err, key_headers, out
from loadtests.arrivals import TraceError
from loadtests.live import LiveError, LiveRun
from loadtests.livestudy import live_study
from loadtests.playing import CONNECTIONS, TIMEOUT_S, Play, PlayError, last_arrival_s, play
from loadtests.scenario import Scenario, ScenarioError, read_scenario
from loadtests.simulation.records import Metrics
from loadtests.target import TargetError, read_target

SHOWN_PROBLEMS = 5


def loadtest(
    scenario: Annotated[Path, typer.Argument(help="TOML file of the scenario.", show_default=False)],
    host: Annotated[str, typer.Option(envvar="GEARSHIFT_URL", help="Where the gateway listens.")] = (
        "http://127.0.0.1:8000"
    ),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the run: figures and every request.", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a page with pictures, and its JSON.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of arrivals and payloads.", show_default="the scenario's")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="CSV file in place of the one the scenario names.", show_default=False)
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="Only classes of this name or model.", show_default=False)
    ] = None,
    label: Annotated[str, typer.Option(help="What to call the run, such as the server's policy.")] = "",
    processes: Annotated[int, typer.Option(min=1, max=64, help="Load generators.")] = 1,
    connections: Annotated[int, typer.Option(min=1, max=900, help="Of each generator, at most.")] = CONNECTIONS,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request has failed.")] = TIMEOUT_S,
) -> None:
    """Send a scenario's requests, each at its own time however slow the answers are, and tell what came of them.

    The same scenario runs simulated with `gearshift simulate`. Ctrl-C stops it and keeps what was measured. Exit code 0
    means a complete run whose generator kept up; 1 that it is not, and why is told; 2 that it was asked wrongly.
    """
    if report is not None and find_spec("matplotlib") is None:
        raise typer.BadParameter("--report draws with matplotlib, which is missing: pip install matplotlib")
    try:
        read = read_scenario(scenario, trace)
        last_s = _last_arrival_s(read, host, seed)
        with tempfile.TemporaryDirectory() as folder:
            asked = Play(
                scenario=scenario,
                host=host,
                out=json_file or Path(folder) / "run.json",
                seed=seed,
                trace=trace,
                label=label,
                tags=tuple(tags or ()),
                processes=processes,
                connections=connections,
                timeout_s=timeout,
            )
            with err.status(f"{read.name}: {last_s:.0f} s of arrivals"):
                run = play(asked, last_s)
    except (ScenarioError, TraceError) as error:
        raise _failed(str(error), 2) from error
    except (PlayError, TargetError, LiveError, OSError) as error:
        raise _failed(str(error), 1) from error
    show(run)
    if report is not None:
        _report(run, read, report)
    if not run.valid:
        raise typer.Exit(1)


def show(run: LiveRun) -> None:
    """The run for people."""
    table = Table(title=f"{run.scenario} on {run.host}", title_justify="left", title_style="bold", box=None)
    columns = "class requests attainment served effective p50,_ms p99,_ms rejected expired late batch"
    for number, column in enumerate(columns.split()):
        table.add_column(column.replace("_", " "), justify="right" if number else "left", no_wrap=True)
    parts = [item for item in run.by_class.items() if item[1].requests] if len(run.by_class) > 1 else []
    for name, metrics in [*parts, ("all" if parts else run.classes[0], run.metrics)]:
        table.add_row(name, *_cells(metrics))
    out.print(table)
    answered = [
        f"{name} {rows / run.metrics.rows:.1%}"
        for by_variant in run.metrics.variant_rows.values()
        for name, rows in by_variant.items()
        if rows
    ]
    out.print(f"answered in time by: {', '.join(answered) or 'none'}", highlight=False)
    if run.failed:
        out.print(f"{run.failed} requests failed or were cut", style="red", highlight=False)
    for problem, count in list(run.problems.items())[:SHOWN_PROBLEMS]:
        out.print(f"  {count} x {problem}", highlight=False, markup=False)
    sender = run.sender
    out.print(
        f"generator: sent {sender.lag_p99_ms:.2f} ms later than intended (p99), {sender.unsent} not sent",
        highlight=False,
    )
    if not run.complete:
        err.print(f"gearshift: not complete: {run.ended}", style="red", markup=False)
    if not sender.kept_up:
        err.print(f"gearshift: not valid: {sender.advice}", style="red", markup=False)


def _report(run: LiveRun, scenario: Scenario, folder: Path) -> None:
    from loadtests.report import write_report  # draws with matplotlib, which only a report needs

    try:
        page, *_ = write_report(folder, live_study([run], scenario, shlex.join(["gearshift", *sys.argv[1:]])))
    except OSError as error:
        raise _failed(f"{error.filename}: the report cannot be written: {error.strerror}", 1) from error
    out.print(f"report: {page}", highlight=False)


def _cells(metrics: Metrics) -> tuple[str, ...]:
    return (
        f"{metrics.requests:,}",
        f"{metrics.attainment:.4f}",
        f"{metrics.served_accuracy:.4f}",
        f"{metrics.effective_accuracy:.4f}",
        f"{metrics.p50_ms:.2f}",
        f"{metrics.p99_ms:.2f}",
        f"{metrics.rejected:,}",
        f"{metrics.expired:,}",
        f"{metrics.late:,}",
        f"{metrics.mean_batch_rows:.2f}",
    )


def _last_arrival_s(scenario: Scenario, host: str, seed: int | None) -> float:
    """Also finds out, before anything is started, whether the host can be asked at all."""
    try:
        with httpx.Client(base_url=host, timeout=5, headers=key_headers()) as client:

            def get(path: str) -> Any:
                answer = client.get(path)
                if answer.status_code != 200:
                    raise TargetError(f"{host}{path}: status {answer.status_code}, {_said(answer)}")
                return answer.json()

            models = read_target(scenario.models(), get)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"{host} does not answer ({error}): is gearshift serve running?") from error
    return last_arrival_s(scenario, models, seed)


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _failed(message: str, code: int) -> typer.Exit:
    err.print(f"gearshift: {message}", style="red", markup=False, highlight=False)
    return typer.Exit(code)
