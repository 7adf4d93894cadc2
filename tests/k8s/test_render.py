"""Every overlay and component renders, to resources that their schemas know, down to the last field."""

import functools
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from serving.config import load_settings
from tests.support.manifests import K8S, OVERLAYS, ROOT, Resource, render, rendered

CRDS = ROOT.parent / "shared/data/crds"
KUBERNETES = "1.32"
COMPONENTS = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))


def is_custom(resource: Resource) -> bool:
    return resource["apiVersion"].split("/")[0] in ("ray.io", "monitoring.coreos.com")


def check_core(resources: tuple[Resource, ...]) -> int:
    core = [resource for resource in resources if not is_custom(resource)]
    for resource in core:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    return len(core)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_resources_are_what_kubernetes_knows(overlay: str) -> None:
    assert check_core(rendered(overlay)) > 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_are_what_their_operators_know(overlay: str) -> None:
    for resource in filter(is_custom, rendered(overlay)):
        schema = _schema(resource)
        errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(resource), key=lambda error: error.path)
        assert not errors, [f"{'/'.join(map(str, error.path))}: {error.message}" for error in errors]


def test_a_misspelt_field_is_seen() -> None:
    resource = {**next(filter(is_custom, rendered("overlays/dev")))}
    resource["spec"] = resource["spec"] | {"upgradeStrategie": {}}
    with pytest.raises(jsonschema.ValidationError, match="upgradeStrategie"):
        jsonschema.Draft202012Validator(_schema(resource)).validate(resource)
    with pytest.raises(kubernetes_validate.ValidationError, match="hots"):
        check_core(({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"hots": 1}},))


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_fits_dev(component: str, tmp_path: Path) -> None:
    """On its own: what prod combines must also be of use to others."""
    # Kustomize wants relative paths, and this checkout may be anywhere.
    places = {name: (K8S / name).resolve() for name in ("overlays/dev", f"components/{component}")}
    up = "../" * (len(tmp_path.resolve().parts) - 1)
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [up + str(places["overlays/dev"]).lstrip("/")],
                "components": [up + str(places[f"components/{component}"]).lstrip("/")],
            }
        ),
        encoding="utf-8",
    )
    resources = render(tmp_path)
    assert resources != rendered("overlays/dev")
    for found in resources:
        if found["kind"] == "ConfigMap" and found["metadata"]["name"].startswith("gearshift-settings"):
            load_settings(environ=found["data"])
    check_core(resources)
    for resource in filter(is_custom, resources):
        jsonschema.Draft202012Validator(_schema(resource)).validate(resource)


def test_whatever_lies_in_the_folder_is_rendered() -> None:
    """An overlay that nobody lists here would go unseen."""
    assert {f"overlays/{path.parent.name}" for path in K8S.glob("overlays/*/kustomization.yaml")} == set(OVERLAYS)


def _schema(resource: Resource) -> dict[str, Any]:
    """The schema of a custom resource, closed: nothing but what it names."""
    group, _, version = resource["apiVersion"].partition("/")
    file = CRDS / f"{group}_{resource['kind'].lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"the definition of {resource['kind']} is not here ({file.name})")
    return _definition(file, version)


@functools.cache
def _definition(file: Path, version: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte of YAML
    definition = yaml.load(file.read_text(encoding="utf-8"), loader)
    (schema,) = (
        found["schema"]["openAPIV3Schema"] for found in definition["spec"]["versions"] if found["name"] == version
    )
    closed: dict[str, Any] = _closed(schema, root=True)
    return closed


def _closed(schema: Any, *, root: bool = False) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: value if key in ("enum", "default") else _closed(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict):
        closed["properties"] = {name: _closed(part) for name, part in schema["properties"].items()}
        if not root and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed
