"""What was made before: models and facts, each under the hash of all it depends on.

A key names an original, data, a seed, the versions of what computes and the steps. Whoever asks for the
same again gets it from here, after a kill too: an entry is written whole, its facts last, or it is not there.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.drafts import SUFFIX, clear_abandoned, write_whole

FORMAT = 1
"""Part of every key: raise it when a pass computes something else for the same parameters."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One remembered result."""

    facts: Mapping[str, Any]
    content: bytes | None = None


class Store:
    """A folder of entries, two levels deep."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first entry is kept. What a killed process was writing is cleared away."""
        self._folder = folder
        clear_abandoned(folder, f"??/*{SUFFIX}")

    def recall(self, key: str) -> Entry | None:
        """The entry of that key; None when there is none, or when it is damaged (it will be made again)."""
        try:
            facts = json.loads(self._place(key, "json").read_text(encoding="utf-8"))
            if facts["sha256"] is None:
                return Entry(facts["facts"])
            content = self._place(key, "onnx").read_bytes()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            return None
        return Entry(facts["facts"], content)

    def keep(self, key: str, facts: Mapping[str, Any], content: bytes | None = None) -> None:
        """Remember a result. Raises `OSError` when the disk does not take it; then there is no entry."""
        digest = None if content is None else hashlib.sha256(content).hexdigest()
        if content is not None:
            write_whole(self._place(key, "onnx"), content)
        write_whole(self._place(key, "json"), json.dumps({"sha256": digest, "facts": facts}).encode())

    def folder(self, key: str) -> Path:
        """A folder for state that belongs to that key."""
        return self._folder / "state" / key

    def _place(self, key: str, suffix: str) -> Path:
        return self._folder / key[:2] / f"{key}.{suffix}"


def key_of(*facts: Any) -> str:
    """The hash of JSON-plain facts, order of mappings aside."""
    return hashlib.sha256(json.dumps([FORMAT, *facts], sort_keys=True).encode()).hexdigest()
