"""Compare Gearshift with other ways to serve the same model, in one run on this machine.

Run with `python -m loadtests.bench` (or `make bench`); `--help` tells the rest.
"""

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.benchmark import render
from loadtests.benchmark.closed_loop import ClosedLoopLoad
from loadtests.benchmark.facts import machine_facts
from loadtests.benchmark.grpc_load import GrpcioLoad, H2loadLoad, find_h2load
from loadtests.benchmark.oracle import Oracle
from loadtests.benchmark.results import Cell, Failure, Results, Sample, save_text
from loadtests.benchmark.runner import BothLoads, Load, Plan, Runner, new_results
from loadtests.benchmark.servers import SERVERS, pick
from loadtests.benchmark.wire import FORMATS
from loadtests.benchmark.wrk import WrkLoad, find_wrk
from loadtests.fixtures import mlp_file

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

_REQUEST_TIMEOUT_S = 10.0
_MINUTES_FROM_S = 120
_FILE_WIDTH = 140  # columns when the output is a file or a pipe: the widest table fits

_EPILOG = """\
servers:
{servers}

how it measures:
  Servers run one at a time. Each repeat starts every server, checks its answers against ONNX Runtime (64 rows,
  16 at once), loads it with every body format and number of connections, checks again and stops it. Tables show
  the median of the repeats (min-max). The load is a closed loop: a connection sends its next request when the
  last is answered, so latencies are those of that many patient callers, not of a fixed arrival rate.
  Load comes from wrk where it is installed, and from h2load for gRPC; else from slower bundled generators on the
  same cores. Calls of gRPC share up to four connections.

examples:
  python -m loadtests.bench
  python -m loadtests.bench --servers gearshift-inprocess fastapi-plain-2 --connections 16 --repeats 5
  python -m loadtests.bench --servers fastapi-plain-1 --duration 1 --repeats 1      (a try in ten seconds)

exit codes:
  0  every server started and answered right, without errors
  1  a server failed to start, or answered wrong or with errors: the tables and the list below them say which
  2  the command line was wrong
  130  interrupted (Ctrl-C): what was measured until then is shown and saved
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    folder: Path = options.work_folder
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        servers=pick(options.servers),
        formats=options.formats,
        connections=options.connections,
        repeats=options.repeats,
        duration_s=options.duration,
        warmup_s=options.warmup,
        extra_env=dict(options.env),
    )
    load = _choose_load(options.generator, folder)
    model = mlp_file(folder)
    oracle = Oracle.of(model)
    command = shlex.join(["python", "-m", "loadtests.bench", *words])
    results = new_results(plan, oracle, command, machine_facts(_generator_fact(load)))
    with _terminate_interrupts(), Screen(console, plan, results, options.json, options.markdown) as screen:
        with contextlib.suppress(KeyboardInterrupt):
            Runner(plan, BothLoads(load, _grpc_load(folder)), oracle, model, folder, results, screen).run()
        screen.save()
    _report(console, results, options)
    if not results.complete:
        return EXIT_INTERRUPTED
    return EXIT_OK if results.sound else EXIT_FAILED


class Screen:
    """Shows the run as it goes and saves what it has after each server."""

    def __init__(self, console: Console, plan: Plan, results: Results, json_file: Path, markdown_file: Path) -> None:
        self._console = console
        self._results = results
        self._json_file = json_file
        self._markdown_file = markdown_file
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task("", total=plan.cells)
        console.print(
            f"{len(plan.servers)} servers, {plan.cells} windows of {plan.duration_s} s: "
            f"{_length(plan.load_s)} of load, starts not counted."
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def doing(self, what: str) -> None:
        """Show what goes on now."""
        self._progress.update(self._task, description=what)

    def measured(self, cell: Cell, sample: Sample) -> None:
        """Print one line for a finished window."""
        self._progress.advance(self._task)
        load = sample.load
        errors = f"  [red]errors {sample.errors}[/red]" if sample.errors else ""
        self._console.print(
            f"  {cell.server:<22} {cell.body_format:<6} {cell.connections:>3} conns  {load.rps:>8,.0f}/s  "
            f"p50 {load.p50_s * 1e3:>7.2f} ms  p99 {load.p99_s * 1e3:>7.2f} ms  "
            f"{sample.cpu_us_per_request:>6,.0f} CPU us/req{errors}",
            highlight=False,
        )

    def failed(self, failure: Failure) -> None:
        """Print why a server is left out."""
        self._console.print(f"  [red]{failure.server} failed:[/red] {escape(failure.reason)}", highlight=False)

    def server_done(self) -> None:
        """Save: a run that is killed keeps what its finished servers gave."""
        self.save()

    def save(self) -> None:
        """Write both files."""
        self._results.save_json(self._json_file)
        save_text(self._markdown_file, render.markdown(self._results))


def _parser() -> argparse.ArgumentParser:
    names = [spec.name for spec in SERVERS]
    servers = "\n".join(f"  {spec.name:<22} {spec.about}" for spec in SERVERS)
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description="Compare Gearshift with other ways to serve the same small MLP, on loopback, in one run: "
        "requests/s, latency and CPU time a request.",
        epilog=_EPILOG.format(servers=servers),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--servers", nargs="+", choices=names, default=names, metavar="NAME", help="default: all (list below)")
    add("--connections", nargs="+", type=_positive, default=[1, 16, 64], metavar="N", help="default: 1 16 64")
    add("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="bodies to send; default: all")
    add("--duration", type=_positive, default=5, metavar="S", help="whole seconds a window; default: 5")
    add("--warmup", type=_positive, default=1, metavar="S", help="seconds of load before a window; default: 1")
    add("--repeats", type=_positive, default=3, metavar="N", help="default: 3")
    add("--generator", choices=("auto", "wrk", "asyncio"), default="auto", help="default: wrk where installed")
    add(
        "--env", action="append", type=_assignment, default=[], metavar="NAME=VALUE",
        help="set this in the servers' environment, over the table; may be given more than once",
    )  # fmt: skip
    add("--json", type=Path, default=Path("bench-results/bench.json"), metavar="FILE",
        help="every sample, for machines; default: %(default)s")  # fmt: skip
    add("--markdown", type=Path, default=Path("bench-results/bench.md"), metavar="FILE",
        help="the tables with machine facts, for docs/benchmarks.md; default: %(default)s")  # fmt: skip
    add("--work-folder", type=Path, default=Path(".run/bench"), metavar="DIR",
        help="for the model and the servers' logs; default: %(default)s")  # fmt: skip
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _length(seconds: int) -> str:
    return f"{seconds} s" if seconds < _MINUTES_FROM_S else f"{seconds / 60:.0f} minutes"


def _choose_load(wanted: str, folder: Path) -> Load:
    binary = None if wanted == "asyncio" else find_wrk()
    if binary is not None:
        return WrkLoad(binary, folder, _REQUEST_TIMEOUT_S)
    if wanted == "wrk":
        _parser().error("--generator wrk: wrk is not installed")
    return ClosedLoopLoad(_REQUEST_TIMEOUT_S)


def _grpc_load(folder: Path) -> Load:
    binary = find_h2load()
    return GrpcioLoad() if binary is None else H2loadLoad(binary, folder)


def _generator_fact(load: Load) -> str:
    http = f"{load.version()}, one thread" if isinstance(load, WrkLoad) else "bundled asyncio client (wrk not used)"
    return f"{http}; gRPC: {'grpcio in two processes' if find_h2load() is None else 'h2load, one thread'}"


@contextlib.contextmanager
def _terminate_interrupts() -> Iterator[None]:
    """Make SIGTERM stop the run as Ctrl-C does: servers stopped, results kept."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _report(console: Console, results: Results, options: argparse.Namespace) -> None:
    for body_format in render.body_formats(results):
        console.print(render.table(results, body_format))
    for failure in results.failures:
        console.print(f"[red]failed:[/red] {failure.server}: {escape(failure.reason.splitlines()[0])}")
    if results.failures:
        console.print(f"what the servers printed: {options.work_folder}/*.log")
    if not results.complete:
        console.print("[yellow]interrupted: the tables hold what was measured until then[/yellow]")
    console.print(f"saved: {options.json} and {options.markdown}")


if __name__ == "__main__":
    raise SystemExit(main())
