"""What only the images' family has: its samples, and the shapes of its answers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.manifest import MANIFEST_NAME, read_manifest
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


@VARIANTS
def test_the_variant_answers_with_probabilities_a_row(variant):
    session = session_of(variant)
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
