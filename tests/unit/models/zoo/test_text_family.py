"""The text family that is committed: served beside the images when nobody says otherwise."""

from pathlib import Path

import numpy as np
import pytest

from models.manifest import MANIFEST_NAME, Padding, read_manifest, sha256_of
from models.session import Session
from models.zoo.text.data import LANGUAGES
from models.zoo.text.samples import read_samples
from models.zoo.text.tokens import encode_batch

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "models/zoo/families/text/1"
FAMILY = read_manifest(FOLDER / MANIFEST_NAME)
SAMPLES = read_samples(ROOT / "models/zoo/text/samples.tsv")
VARIANTS = pytest.mark.parametrize("variant", FAMILY.variants, ids=lambda variant: variant.name)


def session_of(variant):
    return Session((FOLDER / variant.file).read_bytes())


def test_the_manifest_is_of_this_folder():
    assert (FAMILY.name, FAMILY.version) == ("text", FOLDER.name)
    assert FAMILY.batchable
    assert FAMILY.inputs[0].padding == Padding(axis=1, buckets=(16, 32, 64))
    assert FAMILY.outputs[0].labels == LANGUAGES
    assert FAMILY.to_json() == (FOLDER / MANIFEST_NAME).read_text(encoding="utf-8")


def test_the_folder_holds_the_stated_files_and_no_others():
    stated = {variant.file for variant in FAMILY.variants}
    assert {file.name for file in FOLDER.iterdir()} == stated | {MANIFEST_NAME}
    assert sum(variant.size_bytes for variant in FAMILY.variants) < 5_000_000


@VARIANTS
def test_the_file_is_the_stated_one(variant):
    file = FOLDER / variant.file
    assert file.stat().st_size == variant.size_bytes
    assert sha256_of(file) == variant.sha256


@VARIANTS
def test_accuracy_comes_with_the_command_that_measured_it(variant):
    assert variant.evidence is not None
    assert variant.evidence.samples == 8_389
    assert variant.evidence.command == (
        f"python -m models.evaluate models/zoo/families/text/1 --dataset text --variant {variant.name}"
    )
    assert variant.recipe["versions"].keys() == {"python", "torch", "onnx", "onnxruntime"}


def test_the_reference_is_first_and_good():
    accuracies = [variant.accuracy or 0.0 for variant in FAMILY.variants]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(accuracies) >= 6
    assert accuracies[0] >= 0.89


@VARIANTS
def test_the_variant_computes_what_the_manifest_says(variant):
    session = session_of(variant)
    for found, promised in ((session.inputs, FAMILY.inputs), (session.outputs, FAMILY.outputs)):
        assert [(spec.name, spec.datatype, spec.shape) for spec in found] == [
            (spec.name, spec.datatype, spec.shape) for spec in promised
        ]
    ids = encode_batch([name for _, name in SAMPLES])
    together = session.run({"ids": ids})["probabilities"]
    assert together.shape == (len(SAMPLES), len(LANGUAGES))
    assert together.dtype == np.float32
    assert together.sum(axis=1) == pytest.approx(np.ones(len(SAMPLES)), abs=1e-5)


@VARIANTS
def test_an_answer_depends_neither_on_padding_nor_on_neighbours(variant):
    session = session_of(variant)
    names = [name for _, name in SAMPLES[:6]]
    ids = encode_batch(names)
    together = session.run({"ids": ids})["probabilities"]
    for length in FAMILY.inputs[0].padding.buckets[1:]:
        filled = np.pad(ids, ((0, 0), (0, length - ids.shape[1])))
        assert session.run({"ids": filled})["probabilities"] == pytest.approx(together, abs=1e-4)
    for number, name in enumerate(names):
        alone = session.run({"ids": encode_batch([name])})["probabilities"]
        assert alone[0] == pytest.approx(together[number], abs=1e-4)


@VARIANTS
def test_a_text_of_nothing_has_an_answer(variant):
    probabilities = session_of(variant).run({"ids": np.zeros((1, 16), np.int64)})["probabilities"]
    assert np.isfinite(probabilities).all()


def test_the_reference_knows_the_samples():
    assert [language for language, _ in SAMPLES] == list(LANGUAGES)
    ids = encode_batch([name for _, name in SAMPLES])
    probabilities = session_of(FAMILY.variants[0]).run({"ids": ids})["probabilities"]
    assert probabilities.argmax(axis=1).tolist() == list(range(len(LANGUAGES)))


@VARIANTS
def test_the_artifact_tells_nothing_of_the_machine_that_made_it(variant):
    content = (FOLDER / variant.file).read_bytes()
    assert b"stack_trace" not in content
    assert b"site-packages" not in content
    assert b"models/zoo" not in content
