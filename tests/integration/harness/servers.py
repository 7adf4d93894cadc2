"""Really started servers: `gearshift serve` in a process of its own, and proof that nothing of it is left."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from deployments.processes import end_processes, ray_processes

ROOT = Path(__file__).parents[3]
READY_WITHIN_S = 90.0
STOP_WITHIN_S = 45.0
GONE_WITHIN_S = 10.0
SETTLE_WITHIN_S = 10.0
POLL_S = 0.05
LOG_TAIL_CHARS = 6000


class ServerError(AssertionError):
    """A server did not start, did not stop, or left something behind."""


class Server:
    """One `gearshift serve` (or another `command`), its ports, its log and its processes."""

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        *,
        cache: Path,
        log: Path,
        ports: tuple[int, int] | None = None,
        runtime: Path | None = None,
        command: Sequence[str] = ("-m", "deployments.cli.main", "serve"),
        env: dict[str, str] | None = None,
    ) -> None:
        """`options` follow the command and the ports. `runtime` is kept by the caller; by default it is a new one."""
        self.name = name
        self.host = "127.0.0.1"
        self.port, self.metrics_port = ports or (free_port(), free_port())
        self.grpc_port = free_port()
        self.url = f"http://{self.host}:{self.port}"
        self.log = log
        self._own_runtime = runtime is None
        # Not below pytest's folder: the paths of Unix sockets in it may have 107 bytes.
        self.runtime = runtime or Path(tempfile.mkdtemp(prefix="gs-"))
        self._known: set[psutil.Process] = set()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable, *command, "--http-port", str(self.port),
                    "--grpc-port", str(self.grpc_port), "--metrics-port", str(self.metrics_port), *options,
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=serving_env(cache, self.runtime) | (env or {}),
                start_new_session=True,
            )  # fmt: skip

    def wait_ready(self) -> "Server":
        """Block until the server has announced itself and calls itself ready."""
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise ServerError(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            if b"Ctrl-C stops it" in self.log.read_bytes() and self.is_ready():
                self.processes()
                return self
            time.sleep(POLL_S)
        raise ServerError(f"{self.name} is not ready after {READY_WITHIN_S:g} s:\n{self.log_tail()}")

    def is_ready(self) -> bool:
        """Whether readiness is told now."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/v2/health/ready", timeout=5).status_code == 200
        return False

    def processes(self) -> list[psutil.Process]:
        """The living processes that belong to this server, its own one included; Ray's are looked for too."""
        with contextlib.suppress(psutil.Error):
            driver = psutil.Process(self.process.pid)
            self._known |= {driver, *driver.children(recursive=True)}
        self._known |= set(ray_processes(self.runtime / str(self.port) / "ray"))
        return [process for process in self._known if _lives(process)]

    def metrics(self) -> dict[str, float]:
        """The metrics page: sample name with its labels -> value."""
        answer = httpx.get(f"http://{self.host}:{self.metrics_port}/metrics", timeout=10).raise_for_status()
        return {
            _key(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples called `name` that have these labels; 0 where there is none."""
        return total(self.metrics(), name, **labels)

    def outcomes(self, model: str) -> dict[str, int]:
        """Requests of a model by outcome, since the start."""
        page = self.metrics()
        names = ("met", "late", "rejected", "expired", "cancelled", "failed")
        return {name: int(total(page, "gearshift_outcome_total", model=model, outcome=name)) for name in names}

    def log_tail(self) -> str:
        """The end of what the server has written."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and insist that no process is left. Returns the exit code."""
        self.processes()
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end after a signal, and insist that no process is left. Returns the exit code."""
        try:
            code = self.process.wait(STOP_WITHIN_S)
            left = self._left()
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self.name} did not stop within {STOP_WITHIN_S:g} s:\n{self.log_tail()}") from None
        finally:
            self.destroy()
        if left:
            raise ServerError(f"{self.name} left processes behind: {left}")
        return code

    def kill(self) -> None:
        """SIGKILL to the server's own process alone, as the kernel does when memory runs out."""
        self.processes()
        self.process.kill()
        self.process.wait(STOP_WITHIN_S)

    def destroy(self) -> None:
        """Whatever happened: end every process and remove the files."""
        alive = self.processes()
        if self.process.poll() is None:
            self.process.kill()
        end_processes(process for process in alive if process.pid != self.process.pid)
        self.process.wait(STOP_WITHIN_S)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self._own_runtime:
            shutil.rmtree(self.runtime, ignore_errors=True)

    def _left(self) -> list[str]:
        deadline_s = time.monotonic() + GONE_WITHIN_S
        while (alive := self.processes()) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        return [f"{process.pid} {process.name()}" for process in alive if _lives(process)]


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """A ready server, destroyed at the end however the block ends."""
    try:
        yield server.wait_ready()
    finally:
        server.destroy()


def serving_env(cache: Path, runtime: Path) -> dict[str, str]:
    """The environment of a server: ours, less settings of the developer's own, plus our folders."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEARSHIFT_", "RAY_"))}
    return kept | {
        "GEARSHIFT_ENGINE__RUNTIME_DIR": str(runtime),
        "GEARSHIFT_MODELS__CACHE_DIR": str(cache),
        "GEARSHIFT_MODELS__VERSIONS": "all",
        "PYTHONUNBUFFERED": "1",
    }


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on at the moment, and that was not handed out before: nobody listens on it *yet*."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def total(page: dict[str, float], name: str, **labels: str) -> float:
    """Sum of the samples of a metrics page that are called `name` and have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for key, value in page.items()
        if key.partition("{")[0] == name and all(label in key.partition("{")[2] for label in wanted)
    )


def eventually(what: str, holds: Callable[[], object], within_s: float = SETTLE_WITHIN_S) -> None:
    """Ask until the answer is True; a failure tells what was seen instead."""
    deadline_s = time.monotonic() + within_s
    while True:
        seen = holds()
        if seen is True:
            return
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {within_s:g} s; last seen: {seen}")
        time.sleep(POLL_S)


def _key(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
