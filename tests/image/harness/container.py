"""One running container of the image, under the limits a cluster would set."""

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from prometheus_client.parser import text_string_to_metric_families

from serving.config import ServerSettings
from tests.image.harness.engine import Engine

READY_WITHIN_S = 300.0
STOP_GRACE_S = 60
POLL_S = 0.5
LOG_TAIL_CHARS = 8000
LIMITS = (
    "--read-only", "--tmpfs", "/tmp", "--shm-size", "128m", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges", "--pids-limit", "1024",
)  # fmt: skip
"""What Kubernetes' restricted profile asks for, and a bound on processes."""


class Container:
    """A container on the host's network, whose ports are free ones."""

    def __init__(
        self, engine: Engine, image: str, name: str, *, options: Sequence[str], settings: dict[str, str]
    ) -> None:
        self._engine = engine
        self._image = image
        self.name = name
        names = [name for name in ServerSettings.model_fields if name.endswith("_port")]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        ports = {f"GEARSHIFT_SERVER__{port.upper()}": str(number) for port, number in self.ports.items()}
        environment = [f"--env={key}={value}" for key, value in (ports | settings).items()]
        engine("run", "-d", "--name", name, "--network", "host", *LIMITS, *options, *environment, image)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.ports['http_port']}"

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels, as the page of the metrics port tells it."""
        page = httpx.get(f"http://127.0.0.1:{self.ports['metrics_port']}/metrics", timeout=10).raise_for_status().text
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name
        )

    def wait_ready(self) -> "Container":
        """Block until the image's own health check succeeds."""
        config = self._engine.image(self._image)
        check = (config.get("Config", {}).get("Healthcheck") or config["Healthcheck"])["Test"]
        assert check[0] == "CMD", check
        deadline_s = time.monotonic() + READY_WITHIN_S
        while self._engine.run("exec", self.name, *check[1:]).returncode:
            if time.monotonic() > deadline_s or not self.is_running():
                raise AssertionError(f"{self.name} is not ready:\n{self.log()}")
            time.sleep(POLL_S)
        return self

    def is_running(self) -> bool:
        """Whether its main process is still there."""
        return self.state("Running") == "true"

    def state(self, what: str) -> str:
        """One value of the engine's record of it: Running, ExitCode, OOMKilled."""
        return self._engine("inspect", "--format", f"{{{{.State.{what}}}}}", self.name)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the server, as its user."""
        return self._engine.run("exec", self.name, *command)

    def shell(self, script: str) -> str:
        """What a script prints that must succeed; with bash and a login shell, as KubeRay runs its own."""
        done = self.execute("bash", "-lc", script)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def stop(self) -> int:
        """SIGTERM, and the exit code; SIGKILL after the grace."""
        self._engine("stop", "-t", str(STOP_GRACE_S), self.name, timeout_s=STOP_GRACE_S + 30)
        return int(self.state("ExitCode"))

    def log(self) -> str:
        """The end of what it has written."""
        done = self._engine.run("logs", self.name)
        return (done.stdout + done.stderr)[-LOG_TAIL_CHARS:]


@contextmanager
def running(
    engine: Engine, image: str, name: str, *, options: Sequence[str] = (), settings: dict[str, str] | None = None
) -> Iterator[Container]:
    """A container that is ready; removed at the end, with its log shown if the tests failed."""
    try:
        yield Container(engine, image, name, options=options, settings=settings or {}).wait_ready()
    finally:
        engine.run("rm", "-f", "-v", name)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
