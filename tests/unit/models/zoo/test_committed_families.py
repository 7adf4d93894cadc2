"""The families that are committed: what is served when nobody says otherwise."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from models.manifest import MANIFEST_NAME, Family, Variant, read_manifest, sha256_of
from models.session import Session
from models.zoo.fashion.data import LABELS
from models.zoo.options import home
from models.zoo.text.data import LANGUAGES

ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Promise:
    """What a family has to be."""

    name: str
    labels: tuple[str, ...]
    samples: int
    least_accuracy: float
    """Of the reference."""
    most_bytes: int

    @property
    def folder(self):
        return ROOT / home(self.name)

    @property
    def family(self) -> Family:
        return read_manifest(self.folder / MANIFEST_NAME)


PROMISES = (
    Promise("fashion", LABELS, 10_000, 0.93, 12_000_000),
    Promise("text", LANGUAGES, 8_389, 0.89, 5_000_000),
)
FAMILIES = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
VARIANTS = pytest.mark.parametrize(
    ("promise", "variant"),
    [
        pytest.param(promise, variant, id=f"{promise.name}-{variant.name}")
        for promise in PROMISES
        for variant in promise.family.variants
    ],
)


@FAMILIES
def test_the_manifest_is_of_this_folder(promise: Promise) -> None:
    family = promise.family
    assert (family.name, family.version) == (promise.name, promise.folder.name)
    assert family.batchable
    assert family.outputs[0].labels == promise.labels
    assert (family.default_budget.latency_ms, family.default_budget.prefer) == (100.0, "accuracy")
    assert family.to_json() == (promise.folder / MANIFEST_NAME).read_text(encoding="utf-8")


@FAMILIES
def test_the_folder_holds_the_stated_files_and_no_others(promise: Promise) -> None:
    variants = promise.family.variants
    assert {file.name for file in promise.folder.iterdir()} == {variant.file for variant in variants} | {MANIFEST_NAME}
    assert sum(variant.size_bytes for variant in variants) < promise.most_bytes


@FAMILIES
def test_the_reference_is_first_and_good(promise: Promise) -> None:
    accuracies = [variant.accuracy or 0.0 for variant in promise.family.variants]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(accuracies) >= 6
    assert accuracies[0] >= promise.least_accuracy


@VARIANTS
def test_the_file_is_the_stated_one(promise: Promise, variant: Variant) -> None:
    file = promise.folder / variant.file
    assert file.stat().st_size == variant.size_bytes
    assert sha256_of(file) == variant.sha256


@VARIANTS
def test_accuracy_comes_with_the_command_that_measured_it(promise: Promise, variant: Variant) -> None:
    assert variant.evidence is not None
    assert variant.evidence.samples == promise.samples
    name = promise.name
    assert variant.evidence.command == (
        f"python -m models.evaluate models/zoo/families/{name}/1 --dataset {name} --variant {variant.name}"
    )
    assert variant.recipe["versions"].keys() == {"python", "torch", "onnx", "onnxruntime"}


@VARIANTS
def test_the_variant_takes_and_gives_what_the_manifest_says(promise: Promise, variant: Variant) -> None:
    session, family = Session((promise.folder / variant.file).read_bytes()), promise.family
    for found, promised in ((session.inputs, family.inputs), (session.outputs, family.outputs)):
        assert [(spec.name, spec.datatype, spec.shape) for spec in found] == [
            (spec.name, spec.datatype, spec.shape) for spec in promised
        ]


@VARIANTS
def test_the_artifact_tells_nothing_of_the_machine_that_made_it(promise: Promise, variant: Variant) -> None:
    content = (promise.folder / variant.file).read_bytes()
    assert b"stack_trace" not in content
    assert b"site-packages" not in content
    assert b"models/zoo" not in content
