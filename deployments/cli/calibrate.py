"""`gearshift calibrate`: measure every variant on this host, now."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.common import ConfigOption, JsonOption, ModelsOption, out, print_json, variant_table
from deployments.cli.models import described
from models.calibrate import processor
from serving.catalog import open_catalog
from serving.config import load_settings
from serving.engine import calibrated, load_sessions


def calibrate(
    model: Annotated[Path | None, typer.Argument(help="One .onnx file. Default: --models.", show_default=False)] = None,
    models: ModelsOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Measure only what was not measured before.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Measure how long each variant takes on this host, by batch size, and remember it for `serve`.

    `serve` does this by itself when it meets a variant for the first time; do it again when the host changed.
    """
    settings = load_settings(config, overrides={"models": {"repository": model or models}})
    artifacts = open_catalog(settings.models)
    with out.status("calibrating") as status:
        sessions = load_sessions(artifacts, status.update)
        profiles = calibrated(settings, artifacts, sessions, status.update, refresh=not keep)
    families = [described(artifact, profiles[artifact.key]) for artifact in artifacts]
    if as_json:
        print_json({"processor": processor(), "families": families})
        return
    for family in families:
        out.print(variant_table(f"{family['name']} {family['version']}", family["variants"]))
    out.print(f"\non {processor()}, one thread a batch; kept in {settings.models.cache_dir}", style="dim")
