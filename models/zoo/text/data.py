"""Names in 32 languages, from the locale data of Babel: territories, languages, currencies, units, time zones, ...

Babel carries the Unicode CLDR (Unicode licence 3.0), in which the translators of many languages named the same few
thousand things. A *thing* ("territories/DE") belongs as a whole, in all languages, to one of three parts: training,
validation (every choice is made by it) or test. So a name in the test part was never trained on, nor its translations.

Left out are names that several languages share ("Bangladesh"): no answer to them would be right. That takes out the
codes that stand where a translation is missing, too.

`python -m models.zoo.text.data` writes the alphabet, the most frequent characters of the training part.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.zoo.errors import DatasetError
from models.zoo.text.tokens import ALPHABET_FILE, CHARACTERS, FIRST, encode_batch, normalise

LANGUAGES = (
    "bg", "ca", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it", "ja",
    "ko", "lt", "lv", "nb", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "tr", "uk", "vi", "zh",
)  # fmt: skip
"""Codes of classes 0 to 31, as ISO 639 and Babel write them."""

LONGEST = 62
"""Characters of the longest name kept: with a space on either side it fills the largest bucket."""
FEWEST_LETTERS = 2
VALIDATION_PERCENT, TEST_PERCENT = 5, 15

BABEL_VERSION = "2.18.0"
SHA256 = "0311091c35bc9ecc022967391b9f733c95bf96959860a1da117f8966358e1b00"
"""Of all the names of that version, as `fingerprint` hashes them: other locale data are another data set."""

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Names:
    """Names and their languages, of one part."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    """Class numbers [n], places in `LANGUAGES`."""

    def ids(self, characters: Mapping[str, int] | None = None) -> NDArray[np.int64]:
        """The names as the models take them [n, length], filled up behind."""
        return encode_batch(self.texts, characters)


def load(part: Part) -> Names:
    """The names of one part, in a fixed order.

    Raises `DatasetError` where Babel is not installed, or has other names than the family was made from.
    """
    try:
        babel = importlib.import_module("babel")
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"the text data come from Babel, which is not installed here (serving does not need it): "
            f"pip install babel=={BABEL_VERSION}, or use the development environment"
        ) from error
    parts = sort_out({language: list(things_of(babel.Locale.parse(language))) for language in LANGUAGES})
    found = fingerprint(parts)
    if found != SHA256:
        raise DatasetError(
            f"Babel {babel.__version__} has other names (SHA-256 {found}) than {BABEL_VERSION}, "
            f"which the text family was made from ({SHA256}): pip install babel=={BABEL_VERSION}"
        )
    chosen = parts[part]
    return Names(
        texts=tuple(chosen),
        labels=np.array([LANGUAGES.index(language) for language in chosen.values()], np.int64),
    )


def things_of(locale: Any) -> Iterator[tuple[str, str]]:
    """(thing, name) of all that a locale of Babel names; a thing has several names where the grammar asks for it."""
    for kind in ("territories", "languages", "scripts", "variants", "currencies"):
        for code, name in getattr(locale, kind).items():
            yield f"{kind}/{code}", name
    for kind in ("months", "days", "quarters"):
        for widths in getattr(locale, kind).values():
            for number, name in widths["wide"].items():
                yield f"{kind}/{number}", name
    for kind, things in _forms(locale).items():
        for code, forms in things.items():
            for name in forms.values():
                yield f"{kind}/{code}", name


def _forms(locale: Any) -> dict[str, dict[str, Mapping[str, str]]]:
    """By kind and thing: the names of what has more than one in a language, or none."""
    cities = {code: {"city": zone["city"]} for code, zone in locale.time_zones.items() if "city" in zone}
    zones = {code: zone.get("long", {}) for code, zone in locale.meta_zones.items()}
    # Babel has a method for one of these names at a time, but no list of what there is to ask for.
    data = locale._data  # noqa: SLF001
    return {
        "cities": cities,
        "zones": zones,
        "currencies": data["currency_names_plural"],
        "units": data["unit_display_names"],
    }


def sort_out(named: Mapping[str, list[tuple[str, str]]]) -> dict[Part, dict[str, str]]:
    """From (thing, name) by language to the parts: each from name to its one language, sorted by name.

    A name that stands for several things goes where the model may know it: to training if any of them is trained on,
    else to validation.
    """
    things: dict[str, set[str]] = {}
    languages: dict[str, set[str]] = {}
    for language, pairs in named.items():
        for thing, name in pairs:
            text = normalise(name)
            if len(text) <= LONGEST and sum(map(str.isalpha, text)) >= FEWEST_LETTERS:
                things.setdefault(text, set()).add(thing)
                languages.setdefault(text, set()).add(language)
    parts: dict[Part, dict[str, str]] = {"train": {}, "validation": {}, "test": {}}
    for text in sorted(things):
        if len(languages[text]) == 1:
            (language,) = languages[text]
            found = {part_of(thing) for thing in things[text]}
            parts[next(part for part in parts if part in found)][text] = language
    return parts


def part_of(thing: str) -> Part:
    """The part a thing belongs to: a draw by its name, the same for ever."""
    draw = int.from_bytes(hashlib.sha256(thing.encode()).digest()[:4], "big") % 100
    if draw < TEST_PERCENT:
        return "test"
    return "validation" if draw < TEST_PERCENT + VALIDATION_PERCENT else "train"


def fingerprint(parts: Mapping[Part, Mapping[str, str]]) -> str:
    """Hex SHA-256 of all parts, names and languages."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def frequent_characters(texts: Sequence[str], count: int = CHARACTERS - FIRST) -> str:
    """The `count` most frequent characters of the texts, the space among them; ties in the order of Unicode."""
    seen: dict[str, int] = {" ": 2 * len(texts)}
    for character in "".join(texts):
        seen[character] = seen.get(character, 0) + 1
    return "".join(sorted(seen, key=lambda character: (-seen[character], character))[:count])


def main() -> int:
    """Write the alphabet; 1 when the data are not there."""
    try:
        names = load("train")
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    ALPHABET_FILE.write_text(f"{frequent_characters(names.texts)}\n", encoding="utf-8")
    print(ALPHABET_FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
