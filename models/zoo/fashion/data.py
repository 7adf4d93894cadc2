"""Fashion-MNIST from a folder: checked against pinned SHA-256 sums, never fetched.

The data set is Zalando's (Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017; MIT licence): 60,000 training
and 10,000 test images, 28 x 28 grey bytes, ten classes.
"""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.zoo.errors import DatasetError

LABELS = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
"""Names of classes 0 to 9."""

PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530
"""Mean and standard deviation of the training pixels, on a scale of 0 to 1."""

FOLDER_SETTING = "GEARSHIFT_FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"

IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
"""First four bytes of an idx file, big-endian: unsigned bytes, with three dimensions or one."""


@dataclass(frozen=True, slots=True)
class IdxFile:
    """One published file. The sum is of the uncompressed bytes, so it holds for every re-packed copy."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Images:
    """Labelled images of one half of the data set."""

    pixels: NDArray[np.uint8]
    """Unsigned bytes [n, 28, 28], 0 is black."""
    labels: NDArray[np.uint8]
    """Class numbers [n], 0 to 9."""


Half = Literal["train", "test"]

FILES: Mapping[Half, tuple[IdxFile, IdxFile]] = MappingProxyType(
    {
        "train": (
            IdxFile(
                "train-images-idx3-ubyte.gz",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                47_040_016,
            ),
            IdxFile(
                "train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008
            ),
        ),
        "test": (
            IdxFile(
                "t10k-images-idx3-ubyte.gz",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                7_840_016,
            ),
            IdxFile(
                "t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008
            ),
        ),
    }
)


def find_folder(folder: Path | None = None) -> Path:
    """The folder that holds the data set: the argument, else the environment's, else Debian's."""
    if folder is not None:
        return folder
    setting = os.environ.get(FOLDER_SETTING)
    return Path(setting) if setting else DEBIAN_FOLDER


def load(half: Half, folder: Path | None = None) -> Images:
    """Read the images and labels of one half from `find_folder(folder)`.

    Raises `DatasetError` where a file is missing or its content is not the published one.
    """
    where = find_folder(folder)
    images, labels = FILES[half]
    pixels = parse_idx(read_checked(where, images))
    return Images(pixels=pixels, labels=parse_idx(read_checked(where, labels)))


def read_checked(folder: Path, file: IdxFile) -> bytes:
    """The uncompressed bytes of a file of the data set; `DatasetError` unless they are the published ones."""
    path = folder / file.name
    try:
        with gzip.open(path) as stream:
            # One byte more than published tells a longer file, and bounds what a wrong one may unpack to.
            content = stream.read(file.size_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); {_remedy(file)}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DatasetError(f"{path}: is not the published file (SHA-256 {found}); {_remedy(file)}")
    return content


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes: a magic number, one size a dimension, the bytes.

    Read-only. Raises `DatasetError` where the header contradicts the length.
    """
    magic = int.from_bytes(content[:4], "big")
    if magic not in (IMAGES_MAGIC, LABELS_MAGIC):
        raise DatasetError(f"not an idx file of unsigned bytes: it starts with {content[:4].hex()}")
    start = 4 * (1 + (magic & 0xFF))
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if math.prod(shape) != len(content) - start:
        raise DatasetError(f"an idx file of shape {list(shape)} holds {len(content) - start} values")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _remedy(file: IdxFile) -> str:
    return (
        f"expected SHA-256 {file.sha256} once uncompressed. Install the Debian package '{DEBIAN_PACKAGE}', "
        f"or name a folder with the four idx files of Fashion-MNIST: --data FOLDER or {FOLDER_SETTING}=FOLDER"
    )
