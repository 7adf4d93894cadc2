"""A program: a head without room for replicas and a worker with a gateway, as on KubeRay; the head is lost and returns.

Its state is in Redis, as the component gcs-fault-tolerance has it. Prints what callers of the fast port saw, as JSON.
Run in a network namespace of its own: Ray's several nodes listen on every interface, and here that is loopback alone.
"""

import contextlib
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from deployments.processes import end_processes, ray_processes
from tests.integration.harness.servers import ServerError, free_port
from tests.integration.harness.standing import POLL_S, StandingRay

START_WITHIN_S = 300.0
AWAY_S = 5.0
"""How long the head is away before another is started."""
PAUSE_S = 0.05
IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
CALL = {"inputs": [IMAGE], "parameters": {"max_latency_ms": 10_000}}


class Cluster:
    """The processes of a head, a worker and Redis."""

    def __init__(self, ray: StandingRay) -> None:
        self.ray = ray
        self.password = secrets.token_hex(16)
        self.redis_port = free_port()
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.namespace = "gearshift-1"

    def start_redis(self) -> None:
        """With a password in a file, as redis.yaml has it."""
        folder = self.ray.folder / "redis"
        folder.mkdir()
        (folder / "redis.conf").write_text(f"requirepass {self.password}\n", encoding="utf-8")
        self._run(
            "redis", "redis-server", str(folder / "redis.conf"), "--port", str(self.redis_port), "--bind", "127.0.0.1",
            "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction", "--dir",
            str(folder),
        )  # fmt: skip

    def start_head(self) -> None:
        """In a process namespace of its own, like a pod: Ray looks at the processes it can see."""
        self._run(
            "head", "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *self._ray(), "--head",
            "--num-cpus=0", "--dashboard-host=127.0.0.1", "--include-dashboard=true",
            f"--temp-dir={self.ray.folder / 'ray'}", f"--redis-password={self.password}",
            *(f"--{name}={port}" for name, port in self.ray.ports.items()),
            RAY_REDIS_ADDRESS=f"127.0.0.1:{self.redis_port}",
            RAY_external_storage_namespace=self.namespace,
        )  # fmt: skip

    def start_worker(self) -> None:
        """The node of the gateway."""
        of_head = ("port", "dashboard-port")
        self._run(
            "worker", *self._ray(), "--num-cpus=2", f"--address=127.0.0.1:{self.ray.ports['port']}",
            *(f"--{name}={free_port()}" for name in self.ray.ports if name not in of_head),
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """All of it at once, as when a machine is lost."""
        process = self.started.pop(name)
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.kill()
        process.wait(10)

    def wait(self, what: str, holds: Callable[[], object], within_s: float = START_WITHIN_S) -> None:
        """Until it holds. A node that Ray has given up on a busy machine is started again."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            for name, again in (("head", self.start_head), ("worker", self.start_worker)):
                if name in self.started and self.started[name].poll() is not None:
                    if "worker" not in self.started:
                        self.namespace += "1"  # what a start that failed half-way has written is nobody's state
                    again()
            with contextlib.suppress(httpx.HTTPError, KeyError):
                if holds():
                    return
            time.sleep(POLL_S)
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in self.ray.folder.glob("*.log"))
        raise ServerError(f"{what}: not within {within_s:g} s\n{logs}")

    def head_answers(self) -> bool:
        """Whether node and dashboard of the head are up."""
        agent = f"http://127.0.0.1:{self.ray.ports['dashboard-agent-listen-port']}/api/healthz"
        up = httpx.get(agent, timeout=5).status_code == 200
        return up and self.ray.dashboard_call("GET", "/api/version").status_code == 200

    def replicas(self) -> list[str]:
        """The gateways that Serve says run; none while the application is not running."""
        application: dict[str, Any] = self.ray.dashboard_call("GET", "/api/serve/applications/").json()["applications"]
        gateway = application["gearshift"]["deployments"]["gateway"]
        running = application["gearshift"]["status"] == "RUNNING"
        return [replica["replica_id"] for replica in gateway["replicas"] if running and replica["state"] == "RUNNING"]

    def _ray(self) -> list[str]:
        return [
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1",
            "--object-store-memory=80000000", "--disable-usage-stats",
        ]  # fmt: skip

    def _run(self, name: str, *command: str, **variables: str) -> None:
        several_nodes = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
        with (self.ray.folder / f"{name}.log").open("ab") as output:
            self.started[name] = subprocess.Popen(
                command,
                cwd=self.ray.folder,
                env=self.ray.environment() | several_nodes | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


class Caller(threading.Thread):
    """Calls the fast port one after the other until told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._done = threading.Event()
        self.answered = 0
        self.failures: list[str] = []

    def run(self) -> None:
        """Count what is answered."""
        with httpx.Client(timeout=30) as client:
            while not self._done.wait(PAUSE_S):
                try:
                    client.post(f"{self._url}/v2/models/fashion/infer", json=CALL).raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                else:
                    self.answered += 1

    def stop(self) -> None:
        """Stop after the call that is under way."""
        self._done.set()
        self.join(60)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Its processes and folder are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="gs-", ignore_cleanup_errors=True) as folder:
        running = Cluster(StandingRay(Path(folder), Path(folder) / "profiles"))
        try:
            yield running
        finally:
            for name in tuple(running.started):
                running.kill(name)
            end_processes(ray_processes(running.ray.folder / "ray"))


def main() -> None:
    """Serve, lose the head, get it back."""
    with cluster() as running:
        running.start_redis()
        running.start_head()
        running.wait("the head answers", running.head_answers)
        running.start_worker()
        config = running.ray.config()
        running.wait(
            "the configuration is taken",
            lambda: running.ray.dashboard_call("PUT", "/api/serve/applications/", json=config).status_code == 200,
        )
        running.wait("the gateway runs", running.replicas)
        before = running.replicas()
        caller = Caller(running.ray.fast)
        caller.start()
        running.wait("calls are answered", lambda: caller.answered > 10)
        running.kill("head")
        time.sleep(AWAY_S)
        alone = caller.answered
        running.start_head()
        running.wait("another head answers", running.head_answers)
        running.wait("it knows of the gateway", running.replicas)
        caller.stop()
        told = {"before": before, "after": running.replicas(), "alone": alone, "answered": caller.answered}
        sys.stdout.write(json.dumps({**told, "failures": caller.failures}) + "\n")


if __name__ == "__main__":
    main()
