"""The datatypes of the Open Inference Protocol v2, as numpy and JSON know them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""A tensor of any datatype in the table below."""


@dataclass(frozen=True, slots=True)
class WireType:
    """One protocol datatype."""

    name: str
    dtype: np.dtype[Any]
    """Little-endian, as on the wire. BYTES elements are `bytes` objects; BF16 travels as its bits, in uint16,
    because numpy has no such type."""
    kind: Literal["bool", "int", "float", "bits", "text"]
    """`bits` has no JSON form."""
    struct_code: str
    """How `struct` packs one element; empty where it cannot."""
    expects: str
    """What a JSON element must be, in words."""

    @property
    def itemsize(self) -> int:
        """Bytes of one element in binary form; for BYTES the least, which is its length prefix."""
        return 4 if self.kind == "text" else self.dtype.itemsize


def _integer(name: str, code: str, dtype: str) -> WireType:
    info = np.iinfo(dtype)
    return WireType(name, np.dtype(dtype), "int", code, f"an integer from {info.min} to {info.max}")


def _floating(name: str, code: str, dtype: str) -> WireType:
    return WireType(name, np.dtype(dtype), "float", code, f"a number in the range of {name}")


WIRE_TYPES: Mapping[str, WireType] = MappingProxyType(
    {
        wire.name: wire
        for wire in (
            WireType("BOOL", np.dtype("?"), "bool", "", "true or false"),
            _integer("UINT8", "B", "u1"),
            _integer("UINT16", "H", "<u2"),
            _integer("UINT32", "I", "<u4"),
            _integer("UINT64", "Q", "<u8"),
            _integer("INT8", "b", "i1"),
            _integer("INT16", "h", "<i2"),
            _integer("INT32", "i", "<i4"),
            _integer("INT64", "q", "<i8"),
            _floating("FP16", "e", "<f2"),
            _floating("FP32", "f", "<f4"),
            _floating("FP64", "d", "<f8"),
            WireType("BF16", np.dtype("<u2"), "bits", "", "binary data"),
            WireType("BYTES", np.dtype("O"), "text", "", "a string"),
        )
    }
)
"""By protocol name: every `Datatype` of the manifest."""


def bf16_to_fp32(bits: Array) -> Array:
    """The values of BF16 bits (uint16, any shape) as FP32. Exact: BF16 is the upper half of an FP32."""
    widened: Array = (bits.astype("<u4") << 16).view("<f4")
    return widened
