"""A Ray that somebody else started, as KubeRay does: `ray start`, then the Serve configuration by its dashboard."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from deployments.processes import end_processes, ray_processes
from tests.integration.harness.servers import ROOT, ServerError, free_port
from tests.support.manifests import read_env

STARTED_WITHIN_S = 90.0
START_TRIES = 3
DEPLOYED_WITHIN_S = 240.0
POLL_S = 0.3
LOG_TAIL_CHARS = 4000
RAY_PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port",
    "node-manager-port", "object-manager-port", "runtime-env-agent-port",
)  # fmt: skip


@dataclass
class StandingRay:
    """One node on loopback, asked for a token, with the environment that the pods have."""

    folder: Path
    cache: Path
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in RAY_PORTS})
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    ingress_port: int = field(default_factory=free_port)

    def environment(self) -> dict[str, str]:
        """The pods' own, with ports and folders of this test."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEARSHIFT_", "RAY_"))}
        return {
            **kept,
            **read_env(ROOT / "k8s/base/ray.env"),
            **read_env(ROOT / "k8s/base/settings.env"),
            "GEARSHIFT_SERVER__HOST": "127.0.0.1",
            "GEARSHIFT_SERVER__HTTP_PORT": str(self.http_port),
            "GEARSHIFT_SERVER__GRPC_PORT": str(self.grpc_port),
            "GEARSHIFT_SERVER__METRICS_PORT": str(self.metrics_port),
            "GEARSHIFT_SERVER__LAME_DUCK_S": "1",
            "GEARSHIFT_SERVER__DRAIN_S": "2",
            "GEARSHIFT_ENGINE__RUNTIME_DIR": str(self.folder / "run"),
            "GEARSHIFT_MODELS__CACHE_DIR": str(self.cache),
            "HOME": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }

    @property
    def run_folder(self) -> Path:
        """Where the gateways of the node keep their state."""
        return self.folder / "run" / str(self.http_port)

    @property
    def fast(self) -> str:
        """URL of the gateway's own listener."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ingress(self) -> str:
        """URL of Ray's proxy."""
        return f"http://127.0.0.1:{self.ingress_port}"

    @property
    def dashboard(self) -> str:
        """URL of what the operator talks to."""
        return f"http://127.0.0.1:{self.ports['dashboard-port']}"

    def dashboard_call(self, method: str, path: str, **rest: Any) -> httpx.Response:
        """One call with the token, as the operator makes it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.request(method, f"{self.dashboard}{path}", headers=headers, timeout=60, **rest)

    def config(self, **args: dict[str, object]) -> dict[str, Any]:
        """What the overlay `dev` deploys, with the ingress on our port. `args`: settings."""
        patch = yaml.safe_load((ROOT / "k8s/overlays/dev/serve-config.yaml").read_text(encoding="utf-8"))
        config: dict[str, Any] = yaml.safe_load(patch["spec"]["serveConfigV2"])
        config["http_options"] = {"host": "127.0.0.1", "port": self.ingress_port}
        if args:
            config["applications"][0]["args"] = args
        return config

    def deploy(self, config: dict[str, Any]) -> None:
        """Hand over a configuration, and wait until it runs."""
        self.dashboard_call("PUT", "/api/serve/applications/", json=config).raise_for_status()
        deadline_s = time.monotonic() + DEPLOYED_WITHIN_S
        while time.monotonic() < deadline_s:
            state = self.dashboard_call("GET", "/api/serve/applications/").json()
            application = state["applications"].get("gearshift", {})
            proxies = [proxy["status"] for proxy in state["proxies"].values()]
            if application.get("status") == "RUNNING" and proxies == ["HEALTHY"]:
                return
            if application.get("status") == "DEPLOY_FAILED":
                raise ServerError(f"not deployed: {application['message']}\n{application['deployments']}")
            time.sleep(POLL_S)
        raise ServerError(f"not deployed within {DEPLOYED_WITHIN_S:g} s: {application}")


@contextlib.contextmanager
def standing_ray(cache: Path) -> Iterator[StandingRay]:
    """A started node; everything of it is ended when the block ends."""
    ray = StandingRay(Path(tempfile.mkdtemp(prefix="gs-")), cache)
    process = _start(ray)
    try:
        for _ in range(START_TRIES):
            if _is_up(ray, process):
                break
            _end(ray, process)
            process = _start(ray)
        else:
            log = (ray.folder / "ray.log").read_text(encoding="utf-8", errors="replace")
            raise ServerError(f"Ray did not start:\n{log[-LOG_TAIL_CHARS:]}")
        yield ray
    finally:
        _end(ray, process)
        shutil.rmtree(ray.folder, ignore_errors=True)


def _end(ray: StandingRay, process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    if process.poll() is None:
        process.kill()
        process.wait(10)
    end_processes(ray_processes(ray.folder / "ray"))


def _start(ray: StandingRay) -> "subprocess.Popen[bytes]":
    with (ray.folder / "ray.log").open("ab") as output:
        return subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
                "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--include-dashboard=true",
                "--num-cpus=2", "--object-store-memory=80000000", "--disable-usage-stats",
                f"--temp-dir={ray.folder / 'ray'}", *(f"--{name}={port}" for name, port in ray.ports.items()),
            ],
            cwd=ray.folder,
            env=ray.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def _is_up(ray: StandingRay, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the node answers in time. Ray itself gives up after 30 s, which a busy machine may need."""
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            agent = httpx.get(f"http://127.0.0.1:{ray.ports['dashboard-agent-listen-port']}/api/healthz", timeout=5)
            if agent.status_code == 200 and ray.dashboard_call("GET", "/api/version").status_code == 200:
                return True
        time.sleep(POLL_S)
    return False
