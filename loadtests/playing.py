"""Run locust on a scenario in a process of its own: it patches the whole interpreter, and so it stays out of ours."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from loadtests.live import LiveRun, read_live_run
from loadtests.scenario import Scenario
from loadtests.target import capacities
from loadtests.workload import calls

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SPARE_S = 60.0
"""Over the last arrival and the time limit of one request, for starting and for writing the results."""
STOP_GRACE_S = 15.0
CONNECTIONS = 256
TIMEOUT_S = 30.0


class PlayError(RuntimeError):
    """The run could not be made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Play:
    """One run as it is asked for."""

    scenario: Path
    host: str
    out: Path
    """Where the run is written."""
    seed: int | None = None
    trace: Path | None = None
    label: str = ""
    tags: tuple[str, ...] = ()
    processes: int = 1
    """Generators: 1 sends itself, more are workers of one master."""
    connections: int = CONNECTIONS
    timeout_s: float = TIMEOUT_S

    def command(self) -> list[str]:
        """The command line."""
        words = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
        # Without its logs and tables: only what is wrong is told, in plain words.
        words += ["--skip-log-setup", "--host", self.host, "--scenario", str(self.scenario)]
        words += ["--run-json", str(self.out), "--label", self.label]
        words += ["--connections", str(self.connections), "--timeout", f"{self.timeout_s:g}"]
        if self.seed is not None:
            words += ["--seed", str(self.seed)]
        if self.trace is not None:
            words += ["--trace", str(self.trace)]
        if self.tags:
            words += ["--tags", *self.tags]
        if self.processes > 1:
            port = str(_free_port())
            words += ["--processes", str(self.processes), "--master-bind-host", "127.0.0.1"]
            words += ["--master-bind-port", port, "--master-port", port]
        return words


def last_arrival_s(scenario: Scenario, models: Mapping[str, Mapping[str, Any]], seed: int | None = None) -> float:
    """When the last request is due, seconds from the start. Raises `ScenarioError` and `TraceError`."""
    last_s = 0.0
    if scenario.requests is None and scenario.end_s < float("inf"):
        next(calls(scenario, capacities(models, scenario), seed), None)
        return scenario.end_s
    for call in calls(scenario, capacities(models, scenario), seed):
        last_s = call.at_s
    return last_s


def play(run: Play, last_s: float) -> LiveRun:
    """Run it to its end, or until Ctrl-C, which is passed on; what was measured is returned either way.

    Raises `PlayError` when nothing was.
    """
    if find_spec("locust") is None:
        raise PlayError("locust is not installed: install gearshift with its extra, pip install 'gearshift[loadtest]'")
    run.out.parent.mkdir(parents=True, exist_ok=True)
    run.out.unlink(missing_ok=True)  # what is found there afterwards is this run's
    limit_s = last_s + run.timeout_s + SPARE_S
    process = subprocess.Popen(  # noqa: S603  # our own command line
        run.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    with _passed_on(process):
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            _end(process)
            if not run.out.exists():
                raise PlayError(f"the load generator did not end within {limit_s:.0f} s, and was stopped") from None
    if not run.out.exists():
        raise PlayError("nothing was measured; the reason is above")
    return read_live_run(run.out)


@contextlib.contextmanager
def _passed_on(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the run, which then writes what it has; the second time it is killed."""
    asked: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) == 1:
            process.send_signal(signal.SIGINT)
        else:
            process.kill()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
