"""Accuracy of variants on labelled data: `python -m models.evaluate --help`.

The figures in a manifest are claims; this is the command that checks them.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import MANIFEST_NAME, Family, ManifestError, Variant, read_manifest
from models.repository import Artifact
from models.runner import open_variant
from models.session import ModelRunError, Session, VariantLost
from models.zoo.errors import DatasetError
from models.zoo.fashion import data as fashion
from models.zoo.text import data as text

TOLERANCE = 0.001
"""How far a manifest's accuracy may be from the measured one: kernels of other processors round differently."""
BATCH_ROWS = 250
NORMAL_95 = 1.959964
"""Deviations of a normal distribution that hold 95 % of it."""

Classifier = Callable[[NDArray[Any]], NDArray[Any]]
"""From inputs [n, ...] to one score a class [n, classes]: the greatest score wins."""

LabelledData = tuple[NDArray[Any], NDArray[Any]]
"""Inputs [n, ...] and class numbers [n]."""


class EvaluationError(Exception):
    """A variant that cannot be evaluated; the message says why."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of the samples were classified right."""

    right: int
    samples: int

    @property
    def value(self) -> float:
        """Share of the samples that are right, 0 to 1."""
        return self.right / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `value` over draws of the samples."""
        return wilson_interval(self.right, self.samples)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A variant's measured accuracy beside what its manifest states."""

    variant: str
    measured: Accuracy
    stated: float | None

    @property
    def holds(self) -> bool:
        """Whether the manifest states nothing, or states the measured accuracy within `TOLERANCE`."""
        # The slack is for the representation of decimals: 0.9310 - 0.9300 is a little more than 0.001.
        return self.stated is None or abs(self.measured.value - self.stated) <= TOLERANCE + 1e-9


def wilson_interval(right: int, samples: int, deviations: float = NORMAL_95) -> tuple[float, float]:
    """Interval of a proportion, sound near 0 and 1 too.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927. `ValueError`
    unless 0 <= right <= samples and samples >= 1.
    """
    if not 0 <= right <= samples or samples < 1:
        raise ValueError(f"{right} right of {samples} samples is no proportion")
    share, square = right / samples, deviations**2 / samples
    centre = (share + square / 2) / (1 + square)
    reach = deviations / (1 + square) * math.sqrt(share * (1 - share) / samples + square / (4 * samples))
    # At the ends the exact bound is 0 or 1, which rounding may miss.
    low = 0.0 if right == 0 else max(0.0, centre - reach)
    high = 1.0 if right == samples else min(1.0, centre + reach)
    return low, high


def evaluate(
    classify: Classifier, inputs: NDArray[Any], labels: NDArray[Any], batch_rows: int = BATCH_ROWS
) -> Accuracy:
    """Classify all inputs [n, ...] in batches and count those whose greatest score is at their label.

    Raises `EvaluationError` where there is nothing to classify, labels are missing or the scores do
    not have the shape [rows, classes].
    """
    if len(inputs) != len(labels) or len(inputs) == 0:
        raise EvaluationError(f"{len(inputs)} inputs and {len(labels)} labels: expected as many, and some")
    right = 0
    for start in range(0, len(inputs), batch_rows):
        truth = labels[start : start + batch_rows]
        scores = classify(inputs[start : start + batch_rows])
        if scores.ndim != 2 or len(scores) != len(truth):
            raise EvaluationError(
                f"scores of shape {list(scores.shape)} for {len(truth)} rows: expected [rows, classes]"
            )
        right += int(np.count_nonzero(scores.argmax(axis=1) == truth))
    return Accuracy(right, len(inputs))


def classifier_of(session: Session) -> Classifier:
    """A session's one input to its first output; `EvaluationError` where it has more inputs."""
    if len(session.inputs) != 1:
        raise EvaluationError(f"the model has {len(session.inputs)} inputs: expected one")
    given, wanted = session.inputs[0].name, session.outputs[0].name
    return lambda inputs: session.run({given: inputs})[wanted]


def check_variant(artifact: Artifact, variant: Variant, labelled: LabelledData) -> Verdict:
    """Measure a variant with what serves it: its session, its endpoint, or the two of a cascade.

    Raises `EvaluationError` where it cannot be opened, is not what the manifest says or does not run.
    """
    family = artifact.family
    if len(family.inputs) != 1:
        raise EvaluationError(f"'{family.name}' has {len(family.inputs)} inputs: expected one")
    given, wanted = family.inputs[0].name, family.outputs[0].name
    try:
        runner = open_variant(artifact, variant)
        measured = evaluate(lambda inputs: runner.run({given: inputs})[wanted], *labelled)
    except (ManifestError, ModelRunError, VariantLost) as error:
        raise EvaluationError(f"'{variant.name}': {error}") from error
    return Verdict(variant.name, measured, variant.accuracy)


def load_fashion(folder: Path | None) -> LabelledData:
    """The 10,000 test images of Fashion-MNIST, as unsigned bytes [n, 28, 28], and their classes."""
    images = fashion.load("test", folder)
    return images.pixels, images.labels


def load_text(folder: Path | None) -> LabelledData:
    """The held-out names of the text family, as character numbers [n, length], and their languages.

    They come from the installed Babel: `EvaluationError` where a folder is named.
    """
    if folder is not None:
        raise EvaluationError(
            f"the text data come from the installed Babel, not from a folder: leave out --data {folder}"
        )
    names = text.load("test")
    return names.ids(), names.labels


DATASETS: Mapping[str, Callable[[Path | None], LabelledData]] = MappingProxyType(
    {"fashion": load_fashion, "text": load_text}
)
"""Test halves of data sets by name; each loader takes the folder of `--data`."""


def render_table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as lines for a terminal."""
    lines = [f"{'variant':<24} {'measured':>8}   {'95 % interval':<15}   {'manifest':>8}"]
    for verdict in verdicts:
        low, high = verdict.measured.interval
        stated = "-" if verdict.stated is None else f"{verdict.stated:.4f}"
        figures = f"{verdict.variant:<24} {verdict.measured.value:>8.4f}   {low:.4f} - {high:.4f}   {stated:>8}"
        lines.append(figures if verdict.holds else f"{figures}   off by more than {TOLERANCE}")
    return "\n".join(lines)


def render_json(family: Family, dataset: str, verdicts: Sequence[Verdict]) -> str:
    """The verdicts as JSON for a program."""
    variants = [
        {
            "variant": verdict.variant,
            "accuracy": verdict.measured.value,
            "interval": verdict.measured.interval,
            "samples": verdict.measured.samples,
            "manifest": verdict.stated,
            "holds": verdict.holds,
        }
        for verdict in verdicts
    ]
    facts = {"family": family.name, "version": family.version, "dataset": dataset, "variants": variants}
    return json.dumps(facts, indent=2)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure the accuracy of a family's variants and compare it with its manifest.",
        epilog=(
            f"Exits with 1 when a stated accuracy is off by more than {TOLERANCE}, or cannot be checked.\n\n"
            "examples:\n"
            "  python -m models.evaluate models/zoo/families/fashion/1 --dataset fashion\n"
            "  python -m models.evaluate models/zoo/families/text/1 --dataset text"
        ),
    )
    parser.add_argument("family", type=Path, metavar="FAMILY_DIR", help=f"folder with {MANIFEST_NAME} and its files")
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS), help="labelled data to measure on")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set (default: the set's own)")
    parser.add_argument("--variant", metavar="NAME", help="measure only this one (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(arguments)


def check_family(
    folder: Path, dataset: str, data: Path | None = None, only: str | None = None
) -> tuple[Family, list[Verdict]]:
    """Read the manifest in `folder` and measure its variants, or `only` one, on a data set of `DATASETS`.

    Raises `ManifestError`, `EvaluationError` and what the data set's loader raises.
    """
    family = read_manifest(folder / MANIFEST_NAME)
    chosen = [variant for variant in family.variants if only in (None, variant.name)]
    if not chosen:
        names = ", ".join(variant.name for variant in family.variants)
        raise EvaluationError(f"no variant '{only}' in '{family.name}': it has {names}")
    labelled = DATASETS[dataset](data)
    return family, [check_variant(Artifact(family, folder), variant, labelled) for variant in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names; 1 when a figure does not hold or cannot be checked."""
    options = parse_arguments(arguments)
    try:
        family, verdicts = check_family(options.family, options.dataset, options.data, options.variant)
    except (ManifestError, EvaluationError, DatasetError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    report = render_json(family, options.dataset, verdicts) if options.json else render_table(verdicts)
    sys.stdout.write(f"{report}\n")
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
