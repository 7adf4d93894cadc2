"""Binary form of one tensor <-> array: little-endian, row-major, BYTES elements behind a u32 length."""

import struct

import numpy as np

from serving.codec.datatypes import Array, WireType
from serving.codec.limits import CodecLimits
from serving.codec.shapes import show_shape
from serving.core.errors import InvalidRequest, PayloadTooLarge

_BF16_EXPONENT = 0x7F80


def tensor_from_binary(
    name: str,
    data: bytes | memoryview,
    wire: WireType,
    shape: tuple[int, ...],
    count: int,
    limits: CodecLimits,
) -> Array:
    """The array of `shape` (`count` elements) that all of `data` holds.

    It shares the memory of `data`, hence read-only over `bytes`, unless its elements would not be aligned there:
    then it is a copy. Raises `InvalidRequest` for a wrong size, for BOOL bytes other than 0 and 1 and, unless
    `limits.allow_nan`, for NaN and infinities; `PayloadTooLarge` for too many texts.
    """
    where = f"input '{name}'"
    if wire.kind == "text":
        return _texts(where, memoryview(data), count, limits).reshape(shape)
    if len(data) != count * wire.itemsize:
        raise InvalidRequest(
            f"{where}: expected {count * wire.itemsize} bytes for shape {show_shape(shape)} of {wire.name}, "
            f"got {len(data)}"
        )
    if count == 0:
        return np.empty(shape, wire.dtype)
    array: Array = np.frombuffer(data, wire.dtype).reshape(shape)
    if not array.flags.aligned:
        array = array.copy()  # the JSON before it has any length; not every kernel reads across boundaries
    _check_values(where, array, wire, allow_nan=limits.allow_nan)
    return array


def tensor_to_binary(array: Array, wire: WireType) -> bytes:
    """The binary form of an array; texts (`str`) in BYTES become UTF-8."""
    if wire.kind != "text":
        return array.tobytes()
    parts: list[bytes] = []
    for item in array.ravel().tolist():
        text = item.encode() if isinstance(item, str) else item
        parts += (struct.pack("<I", len(text)), text)
    return b"".join(parts)


def _check_values(where: str, array: Array, wire: WireType, *, allow_nan: bool) -> None:
    if wire.kind == "bool":
        # numpy would carry any byte as a true that is not equal to True.
        if array.view(np.uint8).max() > 1:
            raise InvalidRequest(f"{where}: BOOL elements must be the bytes 0 or 1")
        return
    if allow_nan or wire.kind == "int":
        return
    if wire.kind == "bits":
        finite = bool(((array & _BF16_EXPONENT) != _BF16_EXPONENT).all())
    else:
        finite = bool(np.isfinite(array).all())
    if not finite:
        raise InvalidRequest(f"{where}: NaN and infinite values are refused")


def _texts(where: str, data: memoryview, count: int, limits: CodecLimits) -> Array:
    if count > limits.max_objects:
        raise PayloadTooLarge(f"{where}: more than {limits.max_objects} BYTES elements")
    texts: list[bytes] = []
    at, end = 0, len(data)
    for _ in range(count):
        if end - at < 4:
            raise InvalidRequest(f"{where}: expected {count} BYTES elements, got {len(texts)}")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > end - at:
            raise InvalidRequest(f"{where}: BYTES element {len(texts)} claims {length} bytes, but {end - at} are left")
        texts.append(bytes(data[at : at + length]))
        at += length
    if at != end:
        raise InvalidRequest(f"{where}: {end - at} bytes after the last of {count} BYTES elements")
    array = np.empty(count, object)
    array[:] = texts
    return array
