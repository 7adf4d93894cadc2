# mypy: allow-subclassing-any
"""`python -m deployments.manifests`: writes the parts of k8s/ that the code knows better than a person.

These are the Serve configuration of each RayService, made from the application builder itself; Ray's environment in
the pods; and the rules of monitoring/ as the Prometheus operator wants them. What is generated is committed, and a
test compares it.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray.serve._private.build_app import build_app
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import ServeDeploySchema

from deployments.app import application
from deployments.options import cluster_environment
from serving.config import Settings, load_settings

ROOT = Path(__file__).parents[1]
K8S = Path("k8s")
IMPORT_PATH = "deployments.app:build"
APPLICATION = "gearshift"
INGRESS_PORT = 8000
"""Where Ray's own ingress listens, and KubeRay looks."""
HEADER = "# Written by `python -m deployments.manifests`; change that, or the settings it reads.\n"
QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True, slots=True)
class Target:
    """One RayService that is written."""

    folder: str
    """Of k8s/; its settings.env, where it has one, goes over those of base."""
    gateways: int
    """Gateway replicas to start with; one worker pod each."""


TARGETS = (Target("base", 2), Target("overlays/dev", 1), Target("overlays/prod", 3))


class Block(str):
    """A text that YAML writes line by line."""

    __slots__ = ()


class Dumper(yaml.SafeDumper):
    """YAML that a person can read: texts of several lines as such, lists indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT - PyYAML's
        """Indent lists too."""
        super().increase_indent(flow, False)


Dumper.add_representer(Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def read_env(file: Path) -> dict[str, str]:
    """The variables of a file of NAME=VALUE lines, as kustomize reads it; none where there is no file."""
    if not file.exists():
        return {}
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def settings_of(target: Target, root: Path = ROOT) -> Settings:
    """What the pods of a target will have read. Raises `ConfigError`."""
    environ = read_env(root / K8S / "base/settings.env") | read_env(root / K8S / target.folder / "settings.env")
    return load_settings(environ=environ, overrides={"engine": {"replicas": target.gateways}})


def serve_config(settings: Settings) -> dict[str, Any]:
    """The Serve configuration of an application with these settings, for `serve deploy` and a RayService.

    Its settings are not in it: they come from the environment of the pods. The sizes of the deployments are, so
    that a change of them scales what runs and replaces nothing.
    """
    built = build_app(application(settings, ingress=True), name=APPLICATION)
    deployments = [deployment_to_schema(deployment).model_dump(exclude_unset=True) for deployment in built.deployments]
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": INGRESS_PORT},  # noqa: S104 - the pods' network policy decides
        "logging_config": QUIET,
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "deployments": deployments,
            }
        ],
    }
    ServeDeploySchema.model_validate(config)
    return config


def to_yaml(value: object) -> str:
    """The YAML of a document."""
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, width=110))


def rayservice_patch(settings: Settings) -> str:
    """What kustomize merges into the RayService."""
    patch = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": APPLICATION},
        "spec": {"serveConfigV2": Block(to_yaml(serve_config(settings)))},
    }
    return HEADER + to_yaml(patch)


def environment_file(variables: Mapping[str, str]) -> str:
    """Lines for a ConfigMap."""
    return HEADER + "".join(f"{name}={value}\n" for name, value in variables.items())


def prometheus_rule(rules: str) -> str:
    """Prometheus' own file of rules as the resource of its operator."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": APPLICATION, "labels": {"app.kubernetes.io/name": APPLICATION}},
        "spec": yaml.safe_load(rules),
    }
    return HEADER + to_yaml(rule)


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file, by its path below `root`."""
    files = {K8S / "base/ray.env": environment_file(cluster_environment())}
    for target in TARGETS:
        files[K8S / target.folder / "serve-config.yaml"] = rayservice_patch(settings_of(target, root))
    rules = (root / "monitoring/rules.yaml").read_text(encoding="utf-8")
    files[K8S / "overlays/monitoring/prometheus-rule.yaml"] = prometheus_rule(rules)
    return files


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with --check only tell which are not as they would be written."""
    parser = argparse.ArgumentParser(prog="python -m deployments.manifests", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file would change")
    options = parser.parse_args(arguments)
    changed = [
        (path, text)
        for path, text in generated().items()
        if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text
    ]
    for path, text in changed:
        sys.stdout.write(f"{path}\n")
        if not options.check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text, encoding="utf-8")
    return int(options.check and bool(changed))


if __name__ == "__main__":
    raise SystemExit(main())
