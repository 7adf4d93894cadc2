"""What each compression pass does alone, to three models: `python -m docs.techniques`.

Writes docs/img/techniques.json, from which docs/compression.md has its tables (`python -m docs.generate`). It takes
some minutes. Other work on the machine costs precision and not truth: latencies are ratios from turns with the
original, and training is bounded by epochs, not by the clock. Needs the Fashion-MNIST images (Debian's
`dataset-fashion-mnist`).
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from docs import digits
from docs.blocks import ROOT
from docs.technique_table import COMMAND, DATA, load
from models.calibrate import processor
from models.compress.dataset import Dataset, Rows, read_dataset, split
from models.compress.errors import Inapplicable
from models.compress.measure import measure_accuracy, measure_speed
from models.compress.original import Original, read_original
from models.compress.passes.registry import passes_called
from models.compress.step import Step
from models.compress.workbench import Workbench
from models.manifest import digest_of, read_manifest
from models.session import onnxruntime
from models.zoo.errors import DatasetError
from models.zoo.fashion import data as fashion
from serving.config import usable_cores

FAMILY = ROOT / "models" / "zoo" / "families" / "fashion" / "1"
TRAIN_ROWS, TEST_ROWS = 3_000, 4_000
"""Of the demo's images: enough to tell the passes apart in minutes."""
SHOWN_BATCHES = (1, 16)
IMAGE_STUDENTS = (("residual", 16, 1), ("separable", 16, 1))
VECTOR_STUDENTS = (("perceptron", 64, 1),)


@dataclass(frozen=True, slots=True)
class Technique:
    """One pass, and which of its settings: a place among its choices, or parameters by name."""

    name: str
    choice: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def step(self, model: onnx.ModelProto, bench: Workbench) -> Step:
        """The step to carry out. Raises `Inapplicable`."""
        kind = passes_called([self.name])[self.name]
        if self.parameters:
            build: Any = kind
            step: Step = build(**self.parameters)
            return step
        choices = kind.choices(model, bench)
        if self.choice >= len(choices):
            raise Inapplicable("it offers no other setting")
        return choices[self.choice]


TECHNIQUES = (
    Technique("simplify"),
    Technique("fuse"),
    Technique("int8-static"),
    Technique("int8-static", 1),
    Technique("int8-static", 2),
    Technique("int8-dynamic"),
    Technique("weight-only"),
    Technique("weight-only", 1),
    Technique("weight-only", parameters={"bits": 4, "block": 32, "each_run": True}),
    Technique("half", parameters={"computed": False}),
    Technique("half", parameters={"computed": True}),
    Technique("sparsify", parameters={"sparsity": 0.5, "epochs": 0}),
    Technique("search", parameters={"trials": 6, "epochs": 9}),
    Technique("classical", parameters={"kind": "linear"}),
    Technique("classical", parameters={"kind": "fourier", "features": 512}),
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A model that the passes are tried on, and how long they may train."""

    about: str
    original: Original
    data: Dataset
    students: tuple[tuple[str, int, int], ...]
    """Family, width and depth of those to teach."""
    student_epochs: int
    recovery_epochs: int
    """Passes over the rows after something was taken out."""
    measuring_s: float

    def techniques(self) -> list[Technique]:
        """What to try: what takes seconds, what recovers by training, and what learns from nothing."""
        epochs = {"epochs": self.recovery_epochs}
        recovering = (
            Technique("sparsify", parameters={"sparsity": 0.8, **epochs}),
            Technique("channels", parameters={"keep": 0.5, **epochs}),
            Technique("low-rank", parameters={"keep": 0.5, **epochs}),
        )
        students = (
            {"family": family, "width": width, "depth": depth, "epochs": self.student_epochs}
            for family, width, depth in self.students
        )
        return [*TECHNIQUES, *recovering, *(Technique("distill", parameters=student) for student in students)]


def references(folder: Path) -> list[Reference]:
    """The demo's most accurate float32 net, and the two nets of `docs.digits`. Raises `DatasetError`."""
    digits.make(folder)
    return [
        _demo(),
        _digits(folder, "cnn", "Digits, a small convolutional net", IMAGE_STUDENTS),
        _digits(folder, "mlp", "Digits, two layers of 512", VECTOR_STUDENTS),
    ]


def measured(reference: Reference, folder: Path) -> dict[str, Any]:
    """Every technique on one model, then all of what they made side by side."""
    bench = Workbench(
        original=reference.original,
        train=reference.data.train,
        validation=reference.data.validation,
        folder=folder,
        threads=usable_cores(),
    )
    made: dict[str, tuple[Step | None, bytes, float]] = {"original": (None, reference.original.content, 0.0)}
    dropped = []
    for technique in reference.techniques():
        began_s = time.monotonic()
        try:
            step, content = _applied(technique, reference, bench)
        except Inapplicable as reason:
            dropped.append({"pass": technique.name, "why": str(reason)})
            _tell(f"{reference.original.name}: {technique.name}: {reason}")
            continue
        seconds = time.monotonic() - began_s
        made[step.label] = (step, content, seconds)
        _tell(f"{reference.original.name}: {step.label}: {seconds:.1f} s")
    variants = _figures(reference, made)
    return {
        "name": reference.original.name,
        "about": reference.about,
        "sha256": reference.original.sha256,
        "rows": {"train": len(reference.data.train), "test": len(reference.data.test)},
        "turns": variants[0]["turns"],
        "variants": variants,
        "inapplicable": dropped,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m docs.techniques", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="measure only these again, and keep the others")
    names: list[str] = parser.parse_args(arguments).names
    with tempfile.TemporaryDirectory(prefix="gearshift-") as scratch:
        try:
            there = {each.original.name: each for each in references(Path(scratch) / "digits")}
        except DatasetError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        if unknown := [name for name in names if name not in there]:
            parser.error(f"there is no model '{unknown[0]}'; there are: {', '.join(there)}")
        results = {each["name"]: each for each in load()["references"]} if names else {}
        for name in names or there:
            results[name] = measured(there[name], Path(scratch) / name)
    data = {
        "command": COMMAND,
        "machine": f"{usable_cores()} cores {processor()}",
        "onnxruntime": onnxruntime().__version__,
        "references": [results[name] for name in there if name in results],
    }
    DATA.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    _tell(f"{DATA.relative_to(ROOT)}: written; now python -m docs.generate")
    return 0


def _demo() -> Reference:
    manifest = read_manifest(FAMILY / "family.json")
    floats = [variant for variant in manifest.variants if variant.name.endswith("-fp32")]
    best = max(floats, key=lambda variant: variant.accuracy or 0.0)
    original = read_original(FAMILY / best.file, name=manifest.name)
    train, test = (
        Rows({original.inputs[0].name: half.pixels[:count]}, half.labels[:count].astype("int64"))
        for half, count in ((fashion.load("train"), TRAIN_ROWS), (fashion.load("test"), TEST_ROWS))
    )
    about = f"Fashion-MNIST, the demo's `{best.name}`"
    return Reference(
        about, original, split(train, test=test), IMAGE_STUDENTS, student_epochs=20, recovery_epochs=6, measuring_s=60.0
    )


def _digits(folder: Path, name: str, about: str, students: tuple[tuple[str, int, int], ...]) -> Reference:
    original = read_original(folder / f"{name}.onnx", name=f"digits-{name}")
    data = read_dataset(folder / f"{name}.npz", original, test=folder / f"{name}-test.npz")
    return Reference(about, original, data, students, student_epochs=40, recovery_epochs=20, measuring_s=20.0)


def _applied(technique: Technique, reference: Reference, bench: Workbench) -> tuple[Step, bytes]:
    """The step that was carried out, and what it made. Raises `Inapplicable`."""
    model = reference.original.model()
    step = technique.step(model, bench)
    content: bytes = step.apply(model, bench).SerializeToString()
    return step, content


def _figures(reference: Reference, made: Mapping[str, tuple[Step | None, bytes, float]]) -> list[dict[str, Any]]:
    """Accuracy, size and latency of all that was made, in the order it was made."""
    original, rows = reference.original, reference.data.test
    contents = {name: content for name, (_, content, _) in made.items()}
    _tell(f"{original.name}: measuring {len(contents)} variants")
    speeds = measure_speed(contents, original, rows, limit_s=reference.measuring_s, workers=1)
    found = []
    for name, (step, content, seconds) in made.items():
        quality = measure_accuracy(content, original, rows)
        found.append(
            {
                "name": name,
                "pass": step.name if step else "",
                "parameters": {}
                if step is None
                else {key: value for key, value in step.facts().items() if key != "pass"},
                "sha256": digest_of(content),
                "accuracy": quality.accuracy.value,
                "interval": [round(bound, 5) for bound in quality.accuracy.interval],
                "size_bytes": len(content),
                "size_ratio": round(len(content) / len(original.content), 5),
                "latency": {
                    str(timing.rows): {key: round(value, 4) for key, value in timing.facts()["ratio"].items()}
                    for timing in speeds[name].alone
                    if timing.rows in SHOWN_BATCHES
                },
                "turns": speeds[name].turns,
                "seconds": round(seconds, 1),
            }
        )
    return found


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
