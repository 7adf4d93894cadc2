"""Answers kept for who asks the same again: by content, bounded in bytes and age.

A model is a function of its inputs, so an answer may be given twice; but not any answer to anybody. A kept one is
given only where it is no worse than what the budget would have bought: see `Kept.serves`.
"""

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from serving.core.budget import RequestBudget
from serving.core.fleet import VariantView
from serving.core.request import Eligibility
from serving.ports import Tensor, Tensors

ENTRY_BYTES = 1024
"""Counted for an entry besides its tensors: keys, array headers, places in dictionaries."""
TEXT_BYTES = 64
"""Counted for each text besides its letters."""

Key = bytes
"""Names inputs by their content."""
Cause = Literal["space", "age"]


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer."""

    outputs: Tensors
    variant: VariantView
    """What answered."""
    size_bytes: int
    made_s: float

    def serves(self, budget: RequestBudget, rows: int, choice: Eligibility, variants: tuple[VariantView, ...]) -> bool:
        """Whether this request may have it: its floors, its cap and its pin hold, and nothing that its budget leaves
        (`choice`) would be more accurate.
        """
        own = self.variant
        known = own.known_accuracy
        return (
            (budget.variant is None or budget.variant == own.name)
            and (budget.min_accuracy is None or (known is not None and known >= budget.min_accuracy))
            and (budget.max_energy_mj is None or own.energy_mj_per_row * rows <= budget.max_energy_mj)
            and own.accuracy >= variants[choice.best].accuracy
        )


class ResponseCache:
    """The answers of one model's version. The longest unused go first."""

    def __init__(self, max_bytes: int, max_age_s: float) -> None:
        self._most_bytes = max_bytes
        self._most_s = max_age_s
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self.size_bytes = 0
        self.evicted: dict[Cause, int] = {"space": 0, "age": 0}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key, now_s: float) -> Kept | None:
        """What is kept under a key, unless it is too old."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now_s - kept.made_s > self._most_s:
            self._drop(key, "age")
            return None
        self._kept.move_to_end(key)
        return kept

    def keep(self, key: Key, outputs: Tensors, variant: VariantView, now_s: float) -> None:
        """Keep an answer, unless one that is as accurate is kept already, or it is larger than the whole cache."""
        before = self.find(key, now_s)
        if before is not None and before.variant.accuracy >= variant.accuracy:
            return
        size_bytes = ENTRY_BYTES + sum(map(_size_of, outputs.values()))
        if size_bytes > self._most_bytes:
            return
        if before is not None:
            del self._kept[key]
            self.size_bytes -= before.size_bytes
        while self.size_bytes + size_bytes > self._most_bytes:
            self._drop(next(iter(self._kept)), "space")
        # Copies: an answer is a view into its whole batch, and must not keep that, nor change with it.
        own = MappingProxyType({name: _frozen(array) for name, array in outputs.items()})
        self._kept[key] = Kept(own, variant, size_bytes, now_s)
        self.size_bytes += size_bytes

    def _drop(self, key: Key, cause: Cause) -> None:
        self.size_bytes -= self._kept.pop(key).size_bytes
        self.evicted[cause] += 1


def key_of(inputs: Mapping[str, Tensor]) -> Key:
    """Names, datatypes, shapes and content of inputs in 32 bytes: nobody can find two inputs of one key."""
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(inputs):
        array = inputs[name]
        about = f"{name}\0{array.dtype.str}\0{array.shape}".encode()
        digest.update(struct.pack("<I", len(about)) + about)
        if array.dtype == object:
            for text in array.ravel().tolist():
                digest.update(struct.pack("<I", len(text)) + text)
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _size_of(array: Tensor) -> int:
    if array.dtype != object:
        return array.nbytes
    return sum(TEXT_BYTES + len(text) for text in array.ravel().tolist())


def _frozen(array: Tensor) -> Tensor:
    own = array.copy()
    own.flags.writeable = False
    return own
