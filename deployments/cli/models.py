"""`gearshift models`: what a repository holds, and how a model of one's own gets into it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli.common import (
    ConfigOption,
    JsonOption,
    ModelsOption,
    err,
    out,
    print_json,
    size_text,
    variant_table,
)
from models.calibrate import known_profiles
from models.manifest import LatencyProfile
from models.repository import Artifact, RepositoryError, bare_family, latest, publish
from serving.catalog import Catalog
from serving.config import Settings, load_settings
from serving.core.fleet import view_variants
from serving.http.describe import describe_variants
from serving.local_pool import LocalPool

app = typer.Typer(help="List, show and add model families.", no_args_is_help=True)

OWN_REPOSITORY = Path("gearshift-models")


@app.command("list")
def list_models(models: ModelsOption = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the families of a repository, and the versions that cannot be served, with the reason."""
    settings = _settings(models, config)
    listing = Catalog(settings.models.model_copy(update={"versions": "all"})).survey()
    entries = [
        {
            "name": artifact.family.name,
            "version": artifact.family.version,
            "variants": len(artifact.family.variants),
            "size_bytes": sum(variant.size_bytes for variant in artifact.family.variants),
            "description": artifact.family.description,
        }
        for artifact in listing.artifacts
    ]
    if as_json:
        refused = [{"version": key, "reason": reason} for key, reason in listing.refused.items()]
        print_json({"families": entries, "refused": refused})
        return
    for entry in entries:
        out.print(
            f"[bold]{entry['name']}[/bold] {entry['version']}  {entry['variants']} variants, "
            f"{size_text(int(str(entry['size_bytes'])))}  [dim]{entry['description']}[/dim]"
        )
    for key, reason in listing.refused.items():
        err.print(f"{key} cannot be served: {reason}", style="red", markup=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the family.")],
    models: ModelsOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show a family: its inputs and outputs, its variants, and which of them form the frontier on this host.

    Times are known after `gearshift serve` or `gearshift calibrate` measured them.
    """
    settings = _settings(models, config)
    catalog = Catalog(settings.models)
    artifact = latest(catalog.survey((name,)).artifacts).get(name)
    if artifact is None:
        raise RepositoryError(f"{catalog.place} holds no family '{name}' that can be served; see gearshift models list")
    profiles = known_profiles(
        artifact.family, cache_dir=settings.models.cache_dir, watts_per_core=settings.models.watts_per_core
    )
    family = described(artifact, profiles)
    if as_json:
        print_json(family)
        return
    out.print(f"[bold]{family['name']}[/bold] {family['version']}  {family['description']}")
    for kind in ("inputs", "outputs"):
        for spec in family[kind]:
            out.print(
                f"  {kind[:-1]:6} {spec['name']} {spec['datatype']} {spec['shape']}", highlight=False, markup=False
            )
    out.print(f"  default budget {family['default_budget']}\n", highlight=False)
    out.print(variant_table("variants", family["variants"]))
    if profiles is None:
        out.print("\nnot measured on this host yet: gearshift calibrate", style="dim")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What callers will call the model.")],
    model: Annotated[Path, typer.Argument(help="The .onnx file.")],
    version: Annotated[str, typer.Option(help="Version, a whole number.")] = "1",
    accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Its measured accuracy, 0 to 1. Unknown: it cannot promise one."),
    ] = None,
    label_file: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line.", show_default=False)
    ] = None,
    models: Annotated[Path, typer.Option("--models", help="Repository to add it to.")] = OWN_REPOSITORY,
    as_json: JsonOption = False,
) -> None:
    """Make a family of one ONNX file, in a repository that `gearshift serve --models` serves."""
    labels = None if label_file is None else _labels(label_file)
    artifact = bare_family(model, name=name, version=version, accuracy=accuracy, labels=labels)
    (variant,) = artifact.family.variants
    folder = publish(models, artifact.family, {variant.file: model.read_bytes()})
    if as_json:
        print_json({"name": name, "version": version, "folder": str(folder)})
        return
    out.print(f"added {name} {version} in {folder}", highlight=False, markup=False)
    out.print(f"serve it: gearshift serve --models {models}", highlight=False, markup=False)


def described(artifact: Artifact, profiles: dict[str, LatencyProfile] | None) -> dict[str, Any]:
    """A family as the commands print it; without profiles the times are left out."""
    family = artifact.family
    if profiles is not None:
        variants = describe_variants(family, view_variants(family, profiles, LocalPool.batch_overhead_s), profiles)
    else:
        variants = [
            {"name": v.name, "accuracy": v.accuracy, "size_bytes": v.size_bytes, "sha256": v.sha256}
            for v in family.variants
        ]
    return {
        "name": family.name,
        "version": family.version,
        "description": family.description,
        "license": family.license,
        "folder": str(artifact.folder),
        "inputs": [spec.model_dump(mode="json", exclude_none=True) for spec in family.inputs],
        "outputs": [spec.model_dump(mode="json", exclude_none=True) for spec in family.outputs],
        "default_budget": family.default_budget.model_dump(mode="json", exclude_none=True),
        "variants": variants,
    }


def _labels(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{path}: the labels cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _settings(models: str | None, config: Path | None) -> Settings:
    return load_settings(config, overrides={"models": {"repository": models}})
