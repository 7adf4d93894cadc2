"""Pick the sample images that come with the demo family: `python -m models.zoo.fashion.samples`.

One test image a class: the first that the family's best variant is sure of. They are for people to
try a server with, and for tests that need to know the answer; no accuracy is measured on them.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.evaluate import Classifier, classifier_of
from models.manifest import MANIFEST_NAME, read_manifest
from models.session import Session
from models.zoo.fashion.data import LABELS, DatasetError, Images, load

DEFAULT_FAMILY = Path("models/zoo/families/fashion/1")
DEFAULT_OUT = Path("models/zoo/fashion/samples")
SURE = 0.8
"""Least probability of the right class."""


def pick(classify: Classifier, images: Images) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """File name and image [28, 28] of one sample a class; `LookupError` where no image is clear enough."""
    for number, label in enumerate(LABELS):
        for image in images.pixels[images.labels == number]:
            if classify(image[np.newaxis])[0, number] >= SURE:
                yield f"{number}-{label}.png", image
                break
        else:
            raise LookupError(f"no test image of class '{label}' has a probability of {SURE} or more")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m models.zoo.fashion.samples",
        description="Write one test image a class as a PNG file, named after its class.",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set, as for training")
    parser.add_argument("--family", type=Path, default=DEFAULT_FAMILY, metavar="DIR", help=f"default: {DEFAULT_FAMILY}")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"default: {DEFAULT_OUT}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the samples; 1 when the data set is not there."""
    options = parse_arguments(arguments)
    best = read_manifest(options.family / MANIFEST_NAME).variants[0]
    classify = classifier_of(Session((options.family / best.file).read_bytes()))
    try:
        images = load("test", options.data)
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    for name, image in pick(classify, images):
        Image.fromarray(image).save(options.out / name, optimize=True)
        print(options.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
