"""Pick the sample names that come with the text family: `python -m models.zoo.text.samples`.

One held-out name a language: the first that the family's best variant is sure of. They are for people to try a server
with, and for tests that need to know the answer; no accuracy is measured on them.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.evaluate import Classifier, classifier_of
from models.manifest import MANIFEST_NAME, read_manifest
from models.session import Session
from models.zoo import options
from models.zoo.errors import DatasetError
from models.zoo.text.data import LANGUAGES, Names, load
from models.zoo.text.tokens import encode_batch

DEFAULT_OUT = Path("models/zoo/text/samples.tsv")
SURE = 0.9
"""Least probability of the right language."""
LENGTHS = range(12, 41)
"""Bytes of a name worth showing: a few characters of Chinese say as much as a dozen letters."""


def pick(classify: Classifier, names: Names) -> Iterator[tuple[str, str]]:
    """Language and name, one a language; `LookupError` where no name is clear enough."""
    for number, language in enumerate(LANGUAGES):
        for text, label in zip(names.texts, names.labels, strict=True):
            # A name in brackets is clear, but a poor example.
            if label != number or len(text.encode()) not in LENGTHS or not text.replace(" ", "").isalpha():
                continue
            if classify(encode_batch([text]))[0, number] >= SURE:
                yield language, text
                break
        else:
            raise LookupError(f"no held-out name in '{language}' has a probability of {SURE} or more")


def read_samples(file: Path = DEFAULT_OUT) -> list[tuple[str, str]]:
    """Language and name of each sample."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(language, name) for language, _, name in (line.partition("\t") for line in lines)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the samples; 1 when the data are not there."""
    about = "Write one held-out name a language, with its language before it."
    chosen = options.sampling("text", about, DEFAULT_OUT).parse_args(arguments)
    best = read_manifest(chosen.family / MANIFEST_NAME).variants[0]
    classify = classifier_of(Session((chosen.family / best.file).read_bytes()))
    try:
        names = load("test")
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    lines = [f"{language}\t{name}\n" for language, name in pick(classify, names)]
    chosen.out.write_text("".join(lines), encoding="utf-8")
    print(chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
