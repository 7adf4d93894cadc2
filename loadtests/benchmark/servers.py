"""The table of servers under test: how each is started and where it listens. Adapt command lines here only."""

import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.benchmark.wire import BodyFormat

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: servers are started with it as their working folder."""

READY_PATH = "/v2/health/ready"
INFER_PATH = "/v2/models/mlp/infer"

_PYTHON_SERVER_ENV = {"ORT_DISABLE_TELEMETRY": "1"}
_GEARSHIFT = ("{python}", "-m", "deployments.cli.main", "serve", "{model}", "--name", "mlp")
_GEARSHIFT_PORTS = ("--http-port", "{port}", "--grpc-port", "{grpc_port}", "--metrics-port", "{metrics_port}")
_UVICORN = ("{python}", "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}")
_UVICORN_QUIET = ("--log-level", "warning", "--no-access-log", "--app-dir", "{peers}")

# A caller's own settings must not reach the servers unseen: only the table and `--env` configure them.
_NOT_INHERITED = ("RAY_", "GEARSHIFT_", "ORT_", "OMP_", "UVICORN_", "WEB_CONCURRENCY", "MODEL_PATH")


@dataclass(frozen=True, slots=True)
class Place:
    """What the placeholders of a command line stand for in one start."""

    model: Path
    port: int
    metrics_port: int
    grpc_port: int = 0

    def fill(self, template: str) -> str:
        """Return `template` with its `{placeholders}` filled in."""
        return template.format(
            python=sys.executable,
            peers=ROOT / "loadtests" / "peers",
            model=self.model,
            port=self.port,
            metrics_port=self.metrics_port,
            grpc_port=self.grpc_port,
        )


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server under test."""

    name: str
    about: str
    argv: tuple[str, ...]
    """Command line; `{python}`, `{model}`, `{peers}`, `{port}`, `{grpc_port}` and `{metrics_port}` are filled in."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment; the same placeholders are filled in."""
    ready_path: str = READY_PATH
    infer_path: str = INFER_PATH
    start_timeout_s: float = 60.0
    grpc: bool = False
    """Whether it answers gRPC too."""

    def command(self, place: Place) -> list[str]:
        """Return the command line to start this server at `place`."""
        return [place.fill(word) for word in self.argv]

    def environment(self, place: Place, inherited: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
        """Return the server's whole environment; `extra` (from `--env`) wins over the table."""
        kept = {name: value for name, value in inherited.items() if not name.startswith(_NOT_INHERITED)}
        own = {name: place.fill(value) for name, value in self.env.items()}
        return kept | own | dict(extra)

    def url(self, place: Place, path: str) -> str:
        """Return the loopback URL of `path` on this server."""
        return f"http://127.0.0.1:{place.port}{path}"

    def target(self, place: Place, body_format: BodyFormat) -> str:
        """Return the URL that bodies of this format are sent to."""
        return f"grpc://127.0.0.1:{place.grpc_port}" if body_format == "grpc" else self.url(place, self.infer_path)

    def formats(self, wanted: Iterable[BodyFormat]) -> list[BodyFormat]:
        """Return those of the wanted formats that it understands."""
        return [body_format for body_format in wanted if self.grpc or body_format != "grpc"]


def _gearshift(name: str, about: str, *options: str) -> ServerSpec:
    return ServerSpec(
        name=name,
        about=about,
        argv=(*_GEARSHIFT, *options, *_GEARSHIFT_PORTS),
        start_timeout_s=120.0,
        grpc=True,
    )


def _uvicorn(name: str, about: str, app: str, *options: str) -> ServerSpec:
    return ServerSpec(
        name=name,
        about=about,
        argv=(*_UVICORN, *_UVICORN_QUIET, *options, app),
        env=_PYTHON_SERVER_ENV | {"MODEL_PATH": "{model}"},
    )


SERVERS: tuple[ServerSpec, ...] = (
    _gearshift("gearshift-inprocess", "Gearshift, one process, no Ray", "--engine", "inprocess"),
    _gearshift(
        "gearshift-colocated-1", "Gearshift on Ray, sessions in the one gateway replica",
        "--engine", "ray", "--topology", "colocated", "--replicas", "1",
    ),
    _gearshift(
        "gearshift-colocated-2", "the same, two gateway replicas on one port",
        "--engine", "ray", "--topology", "colocated", "--replicas", "2",
    ),
    _gearshift(
        "gearshift-split-1", "Gearshift on Ray, gateway in front of one worker replica",
        "--engine", "ray", "--topology", "split", "--replicas", "1", "--workers", "1",
    ),
    _gearshift(
        "gearshift-split-2", "the same, two worker replicas",
        "--engine", "ray", "--topology", "split", "--replicas", "1", "--workers", "2",
    ),
    _uvicorn("fastapi-plain-1", "uvicorn + FastAPI + ONNX Runtime, no batching", "fastapi_plain:app"),
    _uvicorn("fastapi-plain-2", "the same, two processes", "fastapi_plain:app", "--workers", "2"),
    _uvicorn("fastapi-microbatch-1", "uvicorn + FastAPI + hand-written micro-batcher", "fastapi_microbatch:app"),
    _uvicorn("fastapi-microbatch-2", "the same, two processes", "fastapi_microbatch:app", "--workers", "2"),
    ServerSpec(
        name="ray-serve-default",
        about="Ray Serve defaults: FastAPI ingress -> @serve.batch deployment",
        argv=("{python}", "{peers}/ray_serve_default.py", "--port", "{port}"),
        env=_PYTHON_SERVER_ENV | {"MODEL_PATH": "{model}", "RAY_USAGE_STATS_ENABLED": "0"},
        start_timeout_s=180.0,
    ),
)  # fmt: skip


def pick(names: Iterable[str]) -> tuple[ServerSpec, ...]:
    """Return the servers called `names`, in that order; raises `KeyError` on a name not in the table."""
    by_name = {spec.name: spec for spec in SERVERS}
    return tuple(by_name[name] for name in names)


def free_place(model: Path) -> Place:
    """Return a place with loopback ports that are free now.

    Fresh ports for each start: a server that listens with `SO_REUSEPORT` would otherwise share its
    connections silently with a stranger on the same port.
    """
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for listener in (first, second, third):
            listener.bind(("127.0.0.1", 0))
        return Place(model, first.getsockname()[1], second.getsockname()[1], third.getsockname()[1])
