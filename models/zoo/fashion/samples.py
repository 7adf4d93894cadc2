"""Pick the sample images that come with the demo family: `python -m models.zoo.fashion.samples`.

One test image a class: the first that the family's best variant is sure of. They are for people to
try a server with, and for tests that need to know the answer; no accuracy is measured on them.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.evaluate import Classifier, classifier_of
from models.manifest import MANIFEST_NAME, read_manifest
from models.session import Session
from models.zoo import options
from models.zoo.errors import DatasetError
from models.zoo.fashion.data import LABELS, Images, load

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the samples; 1 when the data set is not there."""
    parser = options.sampling(
        "fashion", "Write one test image a class as a PNG file, named after its class.", DEFAULT_OUT
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set, as for training")
    chosen = parser.parse_args(arguments)
    best = read_manifest(chosen.family / MANIFEST_NAME).variants[0]
    classify = classifier_of(Session((chosen.family / best.file).read_bytes()))
    try:
        images = load("test", chosen.data)
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, image in pick(classify, images):
        Image.fromarray(image).save(chosen.out / name, optimize=True)
        print(chosen.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
