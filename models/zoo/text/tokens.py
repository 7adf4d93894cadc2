"""From text to the numbers the text family takes: what a client must do, and all of it.

The text is composed (Unicode NFC), put in lower case, its white space is made single spaces, and one space is set
before and behind it, so that the models see where words begin and end. Each character then is its place in
`alphabet.txt` plus 2; one that is not there is 1. A batch is filled with 0 up to its longest text; the gateway
fills up the rest, so 0 never has to be sent for a single text.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

PADDING = 0
UNKNOWN = 1
FIRST = 2
"""Number of the alphabet's first character."""
CHARACTERS = 512
"""Numbers a character can have: `PADDING`, `UNKNOWN`, and those of the alphabet."""
ALPHABET_FILE = Path(__file__).with_name("alphabet.txt")
"""The characters, one after the other in one line, most frequent first: `python -m models.zoo.text.data` wrote it."""


@cache
def alphabet() -> Mapping[str, int]:
    """The number of each known character."""
    return numbered(ALPHABET_FILE.read_text(encoding="utf-8").removesuffix("\n"))


def numbered(characters: str) -> Mapping[str, int]:
    """The number of each character of an alphabet."""
    return MappingProxyType({character: FIRST + place for place, character in enumerate(characters)})


def normalise(text: str) -> str:
    """The text as the models know it, without the spaces around it."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def encode(text: str, characters: Mapping[str, int] | None = None) -> list[int]:
    """The numbers of a text, two more than its normal form has characters."""
    known = alphabet() if characters is None else characters
    return [known.get(character, UNKNOWN) for character in f" {normalise(text)} "]


def encode_batch(texts: Sequence[str], characters: Mapping[str, int] | None = None) -> NDArray[np.int64]:
    """The numbers of some texts [n, length]: as long as the longest, the shorter ones filled with `PADDING`."""
    rows = [encode(text, characters) for text in texts]
    ids = np.full((len(rows), max(map(len, rows), default=0)), PADDING, np.int64)
    for row, numbers in zip(ids, rows, strict=True):
        row[: len(numbers)] = numbers
    return ids
