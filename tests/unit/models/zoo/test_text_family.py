"""What only the text family has: its samples, and that padding changes no answer."""

from pathlib import Path

import numpy as np
import pytest

from models.manifest import MANIFEST_NAME, Padding, read_manifest
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


def test_names_are_filled_up_to_one_of_three_lengths():
    assert FAMILY.inputs[0].padding == Padding(axis=1, buckets=(16, 32, 64))


@VARIANTS
def test_the_variant_answers_with_probabilities_a_row(variant):
    session = session_of(variant)
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
