"""A container engine for the tests: the machine's own, or podman with a store of its own installed for them."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

HARNESS = Path(__file__).parent
ROOT = HARNESS.parents[2]
PACKAGES = ("podman", "runc", "debootstrap")
COMMAND_S = 120.0
BASE_S = 600.0
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

_CONTAINERS_CONF = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=8192:8192"]
"""


class NoEngineError(RuntimeError):
    """Images can be neither built nor run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A command that builds and runs images, docker's or podman's, and what a build needs beside it here."""

    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    build_options: tuple[str, ...] = ()

    def __call__(self, *arguments: str, timeout_s: float = COMMAND_S, check: bool = True) -> str:
        """What the command prints. Raises `AssertionError` with its errors when it fails."""
        done = self.run(*arguments, timeout_s=timeout_s)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def run(self, *arguments: str, timeout_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
        """The finished command, whatever its exit code."""
        return subprocess.run(
            [*self.command, *arguments],
            env=os.environ | self.environ,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def image(self, tag: str) -> dict[str, Any]:
        """What the image's configuration says: docker's and podman's words for the same."""
        found: dict[str, Any] = json.loads(self("image", "inspect", tag))[0]
        return found


def find_engine(cache: Path) -> tuple[Engine, str]:
    """An engine, and the name of a base image that it has. Raises `NoEngineError`."""
    docker = Engine(("docker",))
    if shutil.which("docker") and docker.run("info").returncode == 0:
        return docker, _pulled(docker)
    _install()
    podman = _podman(cache)
    try:
        return podman, _pulled(podman)
    except NoEngineError:
        return podman, _stand_in(podman, cache)


def _install() -> None:
    missing = [name for name in PACKAGES if not shutil.which(name)]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise NoEngineError(f"no docker daemon, and {', '.join(missing)} can only be installed by root with apt")
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", *arguments], env=environ, capture_output=True, text=True, timeout=BASE_S)
        if done.returncode:
            raise NoEngineError(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def _podman(cache: Path) -> Engine:
    """Podman with its images and containers below `cache`, so that a user's own are not touched."""
    cache.mkdir(parents=True, exist_ok=True)
    settings = cache / "containers.conf"
    settings.write_text(_CONTAINERS_CONF)
    engine = Engine(
        (
            "podman",
            "--root", str(cache / "graph"), "--runroot", str(cache / "run"), "--tmpdir", str(cache / "tmp"),
            "--cgroup-manager", "cgroupfs",
        ),
        environ={"CONTAINERS_CONF": str(settings)},
        build_options=("--isolation", "chroot", "--network", "host", *_reach_the_index(cache)),
    )  # fmt: skip
    answer = engine.run("info")
    if answer.returncode:
        raise NoEngineError(f"podman does not work here: {answer.stderr.strip()[-500:]}")
    return engine


def _reach_the_index(cache: Path) -> tuple[str, ...]:
    """A build reaches the package index with this machine's certificates, mounted: they stay out of the image."""
    if not CERTIFICATES.exists():
        return ()
    settings = cache / "pip.conf"
    settings.write_text(f"[global]\ncert = {CERTIFICATES}\n")
    return ("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", "--volume", f"{settings}:/etc/pip.conf:ro")


def published_base() -> str:
    """The base image that the Dockerfile names."""
    line = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("ARG BASE="))
    return line.removeprefix("ARG BASE=")


def _pulled(engine: Engine) -> str:
    base = published_base()
    if engine.run("image", "inspect", base).returncode == 0:
        return base
    done = engine.run("pull", "-q", base, timeout_s=BASE_S)
    if done.returncode:
        raise NoEngineError(f"{base} cannot be pulled: {done.stderr.strip()[-500:]}")
    return base


def _stand_in(engine: Engine, cache: Path) -> str:
    """An image like the base, made of this machine's Debian mirror and Python; kept for the next run."""
    if os.geteuid() != 0:
        raise NoEngineError("the base image cannot be pulled, and only root can make one with debootstrap")
    script = HARNESS / "base.sh"
    tag = f"localhost/gearshift-base:{sha256(script.read_bytes()).hexdigest()[:12]}"
    if engine.run("image", "inspect", tag).returncode == 0:
        return tag
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = subprocess.run([str(script), f"{folder}/root"], capture_output=True, text=True, timeout=BASE_S)
        if made.returncode:
            raise NoEngineError(f"no base image: {made.stdout[-500:]}{made.stderr[-500:]}")
        archive = f"{folder}/root.tar"
        subprocess.run(
            ["tar", "-C", f"{folder}/root", "--one-file-system", "-cf", archive, "."], check=True, timeout=BASE_S
        )
        path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        engine("import", "-q", "--change", f"ENV {path}", "--change", "CMD python3", archive, tag, timeout_s=BASE_S)
    return tag


def build(engine: Engine, base: str, tag: str, *, timeout_s: float, lock: str = "serve") -> str:
    """Run `make image`, as a user would; returns what it prints."""
    options: Sequence[str] = (*engine.build_options, "--build-arg", f"BASE={base}")
    values = {"TAG": tag, "LOCK": lock, "ENGINE": " ".join(engine.command), "EXTRA": " ".join(options)}
    done = subprocess.run(
        ["make", "-s", "image", *(f"{name}={value}" for name, value in values.items())],
        cwd=ROOT, env=os.environ | engine.environ, capture_output=True, text=True, timeout=timeout_s,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"make image: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout
