"""`gearshift compress`: one trained ONNX file in, a measured family of variants out."""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from deployments.cli.common import JsonOption, err, out, print_json, size_text
from models.compress.errors import CompressError
from models.session import ModelLoadError, ModelRunError

if TYPE_CHECKING:  # heavy, and only needed by this verb
    from models.compress.exploration import Dropped

MISSING = "gearshift compress needs {name}, which serving does without: install the project with its {extra}"
WITHOUT_TORCH = "PyTorch is not installed (extra 'train'): nothing is trained, {left_out} are left out"
PACKAGES: Mapping[str, str] = MappingProxyType({"torch": "PyTorch", "sklearn": "scikit-learn"})
"""What people call the modules that go by another name."""
DEFAULT_CACHE = Path("~/.cache/gearshift/compress")
INTERRUPTED = 130


def compress(
    model: Annotated[Path, typer.Argument(help="The trained model, an .onnx file.", show_default=False)],
    data: Annotated[
        Path,
        typer.Option("--data", help="An .npz file: one array per model input, and `labels` where there are any."),
    ],
    into: Annotated[Path, typer.Option("--out", help="Repository that gets the family: DIR/NAME/VERSION.")],
    name: Annotated[str | None, typer.Option("--name", help="Of the family. Default: the file's name.")] = None,
    passes: Annotated[
        str | None,
        typer.Option("--passes", help="Only these, with commas between them: int8-static,distill. Default: all."),
    ] = None,
    time_budget: Annotated[
        str, typer.Option("--time-budget", help="Work to spend: 90s, 10m, 2h. What an earlier run did counts.")
    ] = "10m",
    test: Annotated[
        Path | None,
        typer.Option("--test", help="An .npz file to measure on. Default: a fifth of --data is held out."),
    ] = None,
    max_accuracy_loss: Annotated[
        float | None, typer.Option("--max-accuracy-loss", min=0, max=1, help="Gate: 0.02 is two points.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="Gate: 500kB, 2MB, or 30% of the original's size.")
    ] = None,
    most_variants: Annotated[int, typer.Option("--most-variants", min=2, max=64, help="To publish.")] = 12,
    labels: Annotated[str | None, typer.Option("--labels", help="Class names, with commas between them.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="The output to keep, of a model with several.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the split and of everything random.")] = 0,
    cache_dir: Annotated[Path, typer.Option("--cache-dir", help="What was made before is kept here.")] = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Turn one trained ONNX classifier into a family of variants, each honestly measured on this host.

    Tries quantization, pruning, factorization, distillation into small nets, architecture search and classical
    models, alone and one after the other, and publishes those that no other beats in accuracy, latency, size and
    energy, with report.html, report.png and report.json beside them. Run again, it repeats nothing; stopped, it
    goes on where it was.
    """
    began = False
    try:
        from models.compress.dataset import read_dataset
        from models.compress.exploration import Options
        from models.compress.original import read_original
        from models.compress.passes.registry import passes_called
        from models.compress.pipeline import compress as run
        from models.compress.store import Store

        budget_s = seconds(time_budget)
        limit_bytes = size_limit(max_size)
        wanted = _wanted(passes)
        passes_called(wanted)
        original = read_original(model, name=name, output=output)
        dataset = read_dataset(data, original, test=test, seed=seed)
        options = Options(
            passes=wanted,
            time_budget_s=budget_s,
            max_accuracy_loss=max_accuracy_loss,
            max_size_bytes=None if limit_bytes is None else limit_bytes(len(original.content)),
            most_variants=most_variants,
            seed=seed,
            threads=usable_cores(),
        )
        began = True
        with _bars() as bars:
            display = _Display(bars, options.time_budget_s)
            outcome = run(
                original,
                dataset,
                options,
                store=Store(cache_dir.expanduser()),
                out=into,
                command=f"gearshift {shlex.join(sys.argv[1:])}",
                labels=tuple(part.strip() for part in labels.split(",")) if labels else None,
                progress=display.step,
                spent=display.spent,
            )
    except CompressError as error:
        raise _refused(str(error)) from error
    except (ModelLoadError, ModelRunError) as error:
        raise _refused(f"{model}: {error}") from error
    except ModuleNotFoundError as missing:
        raise _refused(_missing(missing)) from missing
    except OSError as error:
        raise _refused(
            f"{error.filename or into}: {error.strerror or error}: nothing was published; what was made so far is kept "
            f"in {cache_dir}, the same command goes on from it"
        ) from error
    except KeyboardInterrupt:
        err.print(f"\nstopped: nothing was published{'; the same command goes on from here' if began else ''}")
        raise typer.Exit(INTERRUPTED) from None
    _tell_failed(outcome.failed)
    if as_json:
        print_json(outcome.report.facts())
        return
    out.print(_table(outcome.report.facts()))
    out.print(f"\n{outcome.folder}\n{outcome.folder / 'report.html'}", soft_wrap=True, highlight=False)
    out.print(f"serve it: gearshift serve --models {into}", style="dim", soft_wrap=True)


def _wanted(passes: str | None) -> tuple[str, ...]:
    """The names asked for; by default those that can be had here. Raises `typer.BadParameter` for none."""
    from models.compress.passes.registry import NAMES, NEED_TORCH

    if passes is not None:
        wanted = tuple(name for name in (part.strip() for part in passes.split(",")) if name)
        if not wanted:
            raise typer.BadParameter("names no pass", param_hint="'--passes'")
        return wanted
    if find_spec("torch") is not None:
        return NAMES
    err.print(WITHOUT_TORCH.format(left_out=", ".join(sorted(NEED_TORCH))), soft_wrap=True)
    return tuple(name for name in NAMES if name not in NEED_TORCH)


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a module that is not there."""
    package = (error.name or str(error)).partition(".")[0]
    extra = "extra 'train' beside 'compress'" if package == "torch" else "extra 'compress'"
    return MISSING.format(name=PACKAGES.get(package, package), extra=extra)


def _refused(text: str) -> typer.Exit:
    """The end of the command, after one line that says why."""
    err.print(f"gearshift: {text}", soft_wrap=True, highlight=False, markup=False)
    return typer.Exit(2)


def _tell_failed(failed: Sequence["Dropped"]) -> None:
    """Defects do not stop the search, but they are no secret."""
    if failed:
        err.print(
            f"{len(failed)} attempts ended with a defect of ours or of a library; the first, {failed[0].name}, "
            f"{failed[0].reason} ({failed[0].traceback}). Please report it",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def seconds(text: str) -> float:
    """A duration such as 90s, 10m, 2h or 45 (seconds). Raises `typer.BadParameter`."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|m|min|h|)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter(f"'{text}' is not a duration: write 90s, 10m or 2h", param_hint="'--time-budget'")
    return float(match[1]) * {"s": 1, "": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def size_limit(text: str | None) -> Callable[[int], int] | None:
    """A size such as 500kB, 2MB, 1000 (bytes) or 30%, as a function of the original's. Raises `typer.BadParameter`."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(B|kB|KB|MB|GB|%|)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter(f"'{text}' is not a size: write 500kB, 2MB or 30%", param_hint="'--max-size'")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return lambda whole: int(number / 100 * whole)
    return lambda _whole: int(number * {"B": 1, "": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


def _bars() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )


class _Display:
    """Two bars: the time budget that is used, and the step that is being done."""

    def __init__(self, bars: Progress, budget_s: float) -> None:
        self._bars = bars
        self._whole = bars.add_task("time budget", total=budget_s)
        self._step = bars.add_task("reading", total=1.0)
        self._spent_s = 0.0
        self._since_s = time.monotonic()

    def step(self, what: str, share: float) -> None:
        """See `workbench.Progress`."""
        self._bars.update(self._step, description=what[:60], completed=share)
        self._bars.update(self._whole, completed=self._spent_s + time.monotonic() - self._since_s)

    def spent(self, seconds: float) -> None:
        """So much of the budget is used, earlier runs included."""
        self._spent_s, self._since_s = seconds, time.monotonic()
        self._bars.update(self._whole, completed=seconds)


def _table(facts: dict[str, Any]) -> Table:
    """The published variants beside the original."""
    table = Table(title=f"{facts['model']}: published variants", title_justify="left", box=None, pad_edge=False)
    for column in ("variant", facts["variants"][0]["metric"], "95 % interval", "size", "", "ms, 1 row", "", "mJ"):
        table.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for variant in facts["variants"]:
        if variant["kept"]:
            low, high = variant["interval"]
            table.add_row(
                variant["name"],
                f"{variant['accuracy']:.4f}",
                f"{low:.4f} - {high:.4f}",
                size_text(variant["size_bytes"]),
                f"{variant['ratios']['size']:.0%}",
                f"{variant['latency_ms']['1']['median_ms']:.3f}",
                f"{variant['ratios']['latency']:.0%}",
                f"{variant['energy_mj']:.3g}",
            )
    return table
