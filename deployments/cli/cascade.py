"""`gearshift cascade`: find pairs of variants worth asking one after the other, and publish them with the family."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from deployments.cli.common import ConfigOption, JsonOption, err, out, print_json
from models.manifest import Evidence, Family
from models.repository import Artifact, RepositoryError, open_family, publish
from serving.config import load_settings

if TYPE_CHECKING:  # reading labelled data and the runtime take their time to import
    from models.cascades import Found, Scored

REFUSED = 2


def cascade(
    family: Annotated[Path, typer.Argument(help="Folder of one version of a family.", show_default=False)],
    data: Annotated[
        Path, typer.Option("--data", help="An .npz file: one array per input, and `labels`. Rows no model learnt from.")
    ],
    test: Annotated[
        Path | None,
        typer.Option("--test", help="An .npz file to measure on. Default: half of --data, which then has no say."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option("--out", help="Repository that gets the next version. Default: the family's own."),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=8, help="Cascades to publish.")] = 2,
    output: Annotated[
        str | None, typer.Option("--output", help="The output with one score a class. Default: the first.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the split.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Find cascades: a quick variant answers, an accurate one is asked about the rows it is unsure of.

    What becomes a new version of the family was chosen on some rows and measured on others. Times are those measured
    on this host; `serve` composes them anew on its own.
    """
    from models.cascades import CascadeError
    from models.compress.errors import CompressError
    from models.session import ModelRunError

    artifact = open_family(family)
    try:
        with err.status("scoring") as status:
            found, plain = _search(artifact, data, test, output, seed, most, config, status.update)
    except (CascadeError, CompressError, ModelRunError) as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(REFUSED) from None
    folder = None
    if found and not dry_run:
        folder = _publish(artifact, found, plain, into or family.resolve().parent.parent, str((test or data).name))
    if as_json:
        print_json({"folder": None if folder is None else str(folder), "cascades": [_told(each) for each in found]})
        return
    if not found:
        out.print("no cascade adds enough to this family to be worth a variant")
        return
    out.print(_table(found))
    if folder is not None:
        out.print(f"\npublished in {folder}", highlight=False, markup=False)


def _search(
    artifact: Artifact,
    data: Path,
    test: Path | None,
    output: str | None,
    seed: int,
    most: int,
    config: Path | None,
    progress: Any,
) -> tuple[list["Found"], dict[str, "Scored"]]:
    """The cascades found, and the variants' scores on the rows they were measured on."""
    from models import cascades as search
    from models.calibrate import profile_family
    from models.compress.npz_file import read_arrays

    settings = load_settings(config).models
    family = artifact.family
    name = output or family.outputs[0].name
    classes = next((spec.shape[-1] for spec in family.outputs if spec.name == name and len(spec.shape) == 2), 0)
    if classes < 2:
        raise search.CascadeError(f"'{name}' is no output with one score a class: name one with --output")
    runners = {v.name: artifact.load(v) for v in family.variants if v.file}
    profiles = profile_family(
        family.model_copy(update={"variants": tuple(v for v in family.variants if v.file)}),
        lambda variant: runners[variant.name],
        cache_dir=settings.cache_dir,
        watts_per_core=settings.watts_per_core,
        progress=progress,
    )
    prices = {name: search.price(profile) for name, profile in profiles.items()}

    def scored(inputs: Mapping[str, Any], labels: Any) -> dict[str, search.Scored]:
        found = {}
        for variant, runner in runners.items():
            progress(f"scoring {variant}")
            found[variant] = search.score(runner, inputs, labels, name)
        return found

    choose_on, measure_on = _rows(family, data, test, classes, seed, read_arrays)
    seen, held_out = scored(*choose_on), scored(*measure_on)
    search.require_like(family, held_out)
    tried = search.candidates(name, seen, prices)
    plain = [search.Point(prices[variant], each.accuracy.value) for variant, each in seen.items()]
    chosen = search.choose(tried, plain, most)
    return search.measure(chosen, held_out, prices, [v.name for v in family.variants]), held_out


def _rows(
    family: Family, data: Path, test: Path | None, classes: int, seed: int, read: Any
) -> Sequence[tuple[dict[str, Any], Any]]:
    """(inputs, labels) to choose on, and to measure on."""
    from models.cascades import LEAST_ROWS, CascadeError

    sets = [(path, *read(path, family.inputs, classes)) for path in (data, test) if path is not None]
    for path, _, labels in sets:
        least = LEAST_ROWS if test is not None else 2 * LEAST_ROWS
        if labels is None or len(labels) < least:
            raise CascadeError(f"{path}: expected at least {least} rows with an array 'labels'")
    if test is not None:
        return [(inputs, labels) for _, inputs, labels in sets]
    ((_, inputs, labels),) = sets
    halves = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
    return [({name: array[half] for name, array in inputs.items()}, labels[half]) for half in halves]


def _publish(
    artifact: Artifact, found: Sequence["Found"], plain: Mapping[str, "Scored"], root: Path, dataset: str
) -> Path:
    from models.cascades import with_cascades

    family = artifact.family
    own = root / family.name
    used = [int(path.name) for path in own.iterdir() if path.name.isdigit()] if own.is_dir() else []
    version = str(max([int(family.version), *used]) + 1)
    samples = len(next(iter(plain.values())).right)
    command = shlex.join(["gearshift", *sys.argv[1:]])
    told = Evidence(metric="top-1", dataset=dataset, samples=samples, command=command)
    richer = with_cascades(family, found, version, {each.name: told for each in found})
    try:
        files = {v.file: artifact.read(v) for v in family.variants if v.file}
    except OSError as error:
        raise RepositoryError(f"{artifact.folder}: cannot be read: {error.strerror}") from error
    return publish(root, richer, files)


def _told(each: "Found") -> dict[str, Any]:
    return {
        "name": each.name,
        **each.rule.model_dump(mode="json"),
        "accuracy": each.measured.value,
        "interval": each.measured.interval,
        "chosen_accuracy": each.chosen.accuracy,
        "us_a_row": round(each.cost_s * 1e6, 1),
    }


def _table(found: Sequence["Found"]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("cascade", "sure from", "goes on", "accuracy", "95 %", "where chosen", "us a row"):
        table.add_column(column, justify="left" if column == "cascade" else "right", no_wrap=True)
    for each in found:
        low, high = each.measured.interval
        table.add_row(
            each.name,
            f"{each.rule.threshold:.4f} {each.rule.confidence}",
            f"{each.rule.escalation:.1%}",
            f"{each.measured.value:.4f}",
            f"{low:.4f}-{high:.4f}",
            f"{each.chosen.accuracy:.4f}",
            f"{each.cost_s * 1e6:.0f}",
        )
    return table
