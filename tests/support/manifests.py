"""The manifests of k8s/, rendered by kustomize, and looked at."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
SERVING = ("overlays/dev", "overlays/gcs-ft", "overlays/prod")
"""The overlays that run Gearshift; the others are applied beside one of them."""
OVERLAYS = (*SERVING, "overlays/monitoring", "overlays/loadtest")

Resource = dict[str, Any]


def read_env(file: Path) -> dict[str, str]:
    """The variables of a file of NAME=VALUE lines."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@functools.cache
def kustomize() -> tuple[str, ...] | None:
    """The command that renders a folder; None where there is no kustomize that knows components."""
    for command in (("kustomize", "build"), ("kubectl", "kustomize")):
        if shutil.which(command[0]):
            ran = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=False)
            if "--load-restrictor" in ran.stdout:  # kustomize 4 and later
                return command
    return None


def render(folder: Path) -> tuple[Resource, ...]:
    """What `kubectl apply -k FOLDER` would send."""
    command = kustomize()
    if command is None:
        raise RuntimeError("there is no kustomize")
    ran = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60, check=False)
    if ran.returncode:
        raise AssertionError(f"{folder} does not render: {ran.stderr}")
    return tuple(yaml.safe_load_all(ran.stdout))


@functools.cache
def rendered(overlay: str) -> tuple[Resource, ...]:
    """An overlay of k8s/, rendered once."""
    return render(K8S / overlay)


def of_kind(overlay: str, kind: str) -> dict[str, Resource]:
    """The rendered resources of one kind, by name."""
    return {found["metadata"]["name"]: found for found in rendered(overlay) if found["kind"] == kind}


def rayservice(overlay: str) -> Resource:
    """The RayService of an overlay that serves."""
    (found,) = of_kind(overlay, "RayService").values()
    return found


def head(overlay: str) -> Resource:
    """The pod template of the head."""
    template: Resource = rayservice(overlay)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    return template


def gateways(overlay: str) -> Resource:
    """The pod template of the workers, each of which holds a gateway."""
    (group,) = rayservice(overlay)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    template: Resource = group["template"]
    return template


def pod_templates(overlay: str) -> Iterator[tuple[str, Resource]]:
    """Every pod that an overlay makes, by a name for messages."""
    for found in rendered(overlay):
        name = f"{found['kind']}/{found['metadata']['name']}"
        if found["kind"] == "RayService":
            yield f"{name} head", head(overlay)
            yield f"{name} gateway", gateways(overlay)
        elif "template" in found.get("spec", {}):
            yield name, found["spec"]["template"]


def settings_of(overlay: str) -> dict[str, str]:
    """The settings that the pods of an overlay read, by the ConfigMap they name."""
    names = {source["configMapRef"]["name"] for source in sources(gateways(overlay)) if "configMapRef" in source}
    (name,) = (name for name in names if name.startswith("gearshift-settings"))
    values: dict[str, str] = of_kind(overlay, "ConfigMap")[name]["data"]
    return values


def sources(template: Resource) -> list[Resource]:
    """Where the first container of a pod has its environment from."""
    found: list[Resource] = template["spec"]["containers"][0]["envFrom"]
    return found


def selects(selector: Resource, template: Resource) -> bool:
    """Whether a selector of labels chooses the pods of a template."""
    labels = template["metadata"].get("labels", {})
    wanted = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())
