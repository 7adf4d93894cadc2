"""The family that is committed: what is served when nobody says otherwise."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.manifest import MANIFEST_NAME, read_manifest, sha256_of
from models.session import Session
from models.zoo.fashion.data import LABELS

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "models/zoo/families/fashion/1"
SAMPLES = sorted((ROOT / "models/zoo/fashion/samples").glob("*.png"))
FAMILY = read_manifest(FOLDER / MANIFEST_NAME)
VARIANTS = pytest.mark.parametrize("variant", FAMILY.variants, ids=lambda variant: variant.name)


def sample_images():
    return np.stack([np.asarray(Image.open(file)) for file in SAMPLES])


def session_of(variant):
    return Session((FOLDER / variant.file).read_bytes())


def test_manifest_is_of_this_folder():
    assert (FAMILY.name, FAMILY.version) == ("fashion", FOLDER.name)
    assert FAMILY.batchable
    assert FAMILY.outputs[0].labels == LABELS
    assert (FAMILY.default_budget.latency_ms, FAMILY.default_budget.prefer) == (100.0, "accuracy")
    assert FAMILY.to_json() == (FOLDER / MANIFEST_NAME).read_text(encoding="utf-8")


def test_folder_holds_the_stated_files_and_no_others():
    stated = {variant.file for variant in FAMILY.variants}
    assert {file.name for file in FOLDER.iterdir()} == stated | {MANIFEST_NAME}
    assert sum(variant.size_bytes for variant in FAMILY.variants) < 12_000_000


@VARIANTS
def test_file_is_the_stated_one(variant):
    file = FOLDER / variant.file
    assert file.stat().st_size == variant.size_bytes
    assert sha256_of(file) == variant.sha256


@VARIANTS
def test_accuracy_comes_with_the_command_that_measured_it(variant):
    assert variant.evidence is not None
    assert variant.evidence.samples == 10_000
    assert variant.evidence.command == (
        f"python -m models.evaluate models/zoo/families/fashion/1 --dataset fashion --variant {variant.name}"
    )
    assert variant.recipe["versions"].keys() == {"python", "torch", "onnx", "onnxruntime"}


def test_reference_is_first_and_good():
    accuracies = [variant.accuracy or 0.0 for variant in FAMILY.variants]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] >= 0.93


@VARIANTS
def test_variant_computes_what_the_manifest_says(variant):
    session = session_of(variant)
    assert session.inputs == FAMILY.inputs
    assert [(spec.name, spec.datatype, spec.shape) for spec in session.outputs] == [
        (spec.name, spec.datatype, spec.shape) for spec in FAMILY.outputs
    ]
    images = sample_images()
    five = session.run({"image": images[:5]})["probabilities"]
    assert five.shape == (5, 10)
    assert five.dtype == np.float32
    assert five.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    # A row's answer does not depend on the rows beside it.
    one = session.run({"image": images[3:4]})["probabilities"]
    assert one.shape == (1, 10)
    assert one[0] == pytest.approx(five[3], abs=1e-5)


def test_there_is_one_sample_a_class():
    assert [file.stem for file in SAMPLES] == [f"{number}-{label}" for number, label in enumerate(LABELS)]
    assert sample_images().shape == (10, 28, 28)
    assert sample_images().dtype == np.uint8


def test_reference_recognises_the_samples():
    probabilities = session_of(FAMILY.variants[0]).run({"image": sample_images()})["probabilities"]
    assert probabilities.argmax(axis=1).tolist() == list(range(10))


@VARIANTS
def test_artifact_tells_nothing_of_the_machine_that_made_it(variant):
    content = (FOLDER / variant.file).read_bytes()
    assert b"stack_trace" not in content
    assert b"site-packages" not in content
    assert b"models/zoo" not in content
