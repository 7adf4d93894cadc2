"""A family of the zoo: its variants are measured as they are written, and it is published as a whole."""

import hashlib
import logging
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from models.evaluate import LabelledData, classifier_of, evaluate
from models.manifest import MANIFEST_NAME, Evidence, Family, Variant
from models.session import Session, onnxruntime
from models.zoo.errors import BuildError, ZooError
from models.zoo.options import home


@dataclass(frozen=True, slots=True)
class Examination:
    """What each variant is measured on."""

    family: str
    dataset: str
    """What the manifest says of the test data."""
    test: LabelledData
    choices_by: str
    """The data that choices were made by: `validation`."""
    chosen: LabelledData

    def write(self, folder: Path, name: str, model: onnx.ModelProto, recipe: Mapping[str, Any]) -> Variant:
        """Write a variant's file to a folder, and measure it with the session that serves it."""
        content = model.SerializeToString()
        file = folder / f"{name}.onnx"
        file.write_bytes(content)
        classify = classifier_of(Session(content))
        chosen, accuracy = evaluate(classify, *self.chosen), evaluate(classify, *self.test)
        print(
            f"{name:<26}  test {accuracy.value:.4f}  {self.choices_by.replace('_', '-')} {chosen.value:.4f}  "
            f"{len(content):>9,} bytes",
            flush=True,
        )
        return Variant(
            name=name,
            file=file.name,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            accuracy=accuracy.value,
            evidence=Evidence(
                metric="top-1",
                dataset=self.dataset,
                samples=accuracy.samples,
                command=f"python -m models.evaluate {home(self.family)} --dataset {self.family} --variant {name}",
            ),
            recipe={**recipe, f"{self.choices_by}_accuracy": chosen.value, "versions": versions()},
        )


def versions() -> dict[str, str]:
    """What made the artifacts."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime().__version__,
    }


def read_weights(work: Path, family: str, net: str, file_name: str) -> dict[str, Any]:
    """What training kept of a net; `BuildError` where it was not trained yet."""
    file = work / f"{file_name}.pt"
    if not file.is_file():
        raise BuildError(f"{file} is missing: python -m models.zoo.{family}.train --nets {net} --work {work}")
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def best_first(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """The variants in the order of a manifest."""
    return tuple(sorted(variants, key=lambda variant: -(variant.accuracy or 0.0)))


def publish(out: Path, make: Callable[[Path], Family]) -> Family:
    """Make a family in a draft folder and put it, as a whole, in place of `out`; where making fails, `out` stays."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=out.parent) as draft:
        folder = Path(draft, "new")
        folder.mkdir()
        family = make(folder)
        (folder / MANIFEST_NAME).write_text(family.to_json(), encoding="utf-8")
        if out.exists():
            out.rename(Path(draft, "old"))
        folder.rename(out)
    return family


def run_build(build: Callable[[], Family], out: Path) -> int:
    """The exit code of a command that builds: 1 when something it needs is missing or wrong, told in a line."""
    try:
        with _quiet():
            family = build()
    except ZooError as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(variant.size_bytes for variant in family.variants)
    print(f"{len(family.variants)} variants, {total:,} bytes: {out / MANIFEST_NAME}")
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the quantizer advises, which was done already, and the packages the exporter can do without."""
    noisy = [logging.getLogger(name) for name in (None, "torch.onnx")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
