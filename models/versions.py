"""Which versions of a model are served: the latest few, all, or some by number."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

FORM = "latest, latest:N, all, or version numbers as in 1,3"


class VersionPolicyError(ValueError):
    """The text is not a version policy; the message says what one looks like."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """A choice of versions; with neither field set, all of them."""

    newest: int | None = 1
    """How many of the highest versions."""
    named: frozenset[str] = frozenset()
    """These and no others."""

    def candidates(self, versions: Iterable[str]) -> list[str]:
        """Those that may be served, highest first: as many of the front as `enough` allows are."""
        rising = sorted(versions, key=int)
        return [version for version in reversed(rising) if not self.named or version in self.named]

    def enough(self, found: Collection[object]) -> bool:
        """Whether that many good versions are all that is wanted."""
        return not self.named and self.newest is not None and len(found) >= self.newest


def read_policy(text: str) -> VersionPolicy:
    """The policy a setting names. Raises `VersionPolicyError`."""
    cleaned = text.strip()
    if cleaned == "all":
        return VersionPolicy(newest=None)
    if cleaned == "latest":
        return VersionPolicy()
    if match := re.fullmatch(r"latest:([0-9]{1,6})", cleaned):
        if int(match[1]) == 0:
            raise VersionPolicyError(f"'{text}' serves nothing: {FORM}")
        return VersionPolicy(newest=int(match[1]))
    numbers = [number.strip() for number in cleaned.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        raise VersionPolicyError(f"'{text}' is not a choice of versions: {FORM}")
    return VersionPolicy(newest=None, named=frozenset(numbers))
