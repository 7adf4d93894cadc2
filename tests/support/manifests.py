"""The manifests of k8s/, rendered by kustomize, and looked at."""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"

Resource = dict[str, Any]


def read_env(file: Path) -> dict[str, str]:
    """The variables of a file of NAME=VALUE lines."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@functools.cache
def kustomize() -> tuple[str, ...] | None:
    """The command that renders a folder; None where there is no kustomize that knows components."""
    for command in (("kustomize", "build"), ("kubectl", "kustomize")):
        if shutil.which(command[0]) and _renders(command):
            return command
    return None


def _renders(command: tuple[str, ...]) -> bool:
    ran = subprocess.run([*command, str(K8S / "overlays/gcs-ft")], capture_output=True, timeout=60, check=False)
    return ran.returncode == 0 or b"unknown field" not in ran.stderr


@functools.cache
def rendered(folder: str) -> tuple[Resource, ...]:
    """What `kubectl apply -k k8s/FOLDER` would send."""
    command = kustomize()
    assert command is not None
    ran = subprocess.run([*command, str(K8S / folder)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return tuple(yaml.safe_load_all(ran.stdout))


def of_kind(folder: str, kind: str) -> dict[str, Resource]:
    """The rendered resources of one kind, by name."""
    return {found["metadata"]["name"]: found for found in rendered(folder) if found["kind"] == kind}


def only(folder: str, kind: str) -> Resource:
    """The one rendered resource of a kind."""
    (found,) = of_kind(folder, kind).values()
    return found
