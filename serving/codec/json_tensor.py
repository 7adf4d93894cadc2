"""JSON data of one tensor -> array: nothing is coerced, and what is wrong is named with its place.

The usual order (check each element, then convert) costs more than everything else in a request. Here `struct`
converts and checks in one pass in C: it refuses null, text, arrays, a fraction for an integer, integers out of
range and, in its standard ("<") sizes, a float that would become infinite. The one thing it lets through is
true and false as 1 and 0, and these are seen by their letters before. Only a refused request is walked
element by element, to say where it is wrong.
"""

import math
import re
import struct
from itertools import chain
from typing import Any

import numpy as np
import orjson

from serving.codec.datatypes import Array, WireType
from serving.codec.limits import CodecLimits
from serving.codec.shapes import show_shape
from serving.core.errors import InvalidRequest, PayloadTooLarge

_COUNT_FIRST_BYTES = 64 * 1024
"""Longer data is parsed only after its form is checked: a parsed `[],` or `{},` takes over twenty times its
length."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')

_PIECE = 1024
"""Elements checked together while looking for the wrong one."""


def tensor_from_json(
    name: str, raw: bytes, wire: WireType, shape: tuple[int, ...], count: int, limits: CodecLimits
) -> Array:
    """The array of `shape` (`count` elements) that `raw` holds: one JSON array, flat or nested like the shape.

    `raw` must be stripped of surrounding whitespace. The array is C-contiguous and may be read-only. Raises
    `InvalidRequest` naming the first wrong place, `PayloadTooLarge` for too many texts.
    """
    where = f"input '{name}'"
    if wire.kind == "bits":
        raise InvalidRequest(f"{where}: {wire.name} has no JSON form: send it with binary_data_size")
    if not raw.startswith(b"["):
        raise InvalidRequest(f"{where}: expected data to be an array")
    if count == 0:
        return _empty(where, raw, wire, shape)
    if wire.kind == "text" and count > limits.max_objects:
        raise PayloadTooLarge(f"{where}: more than {limits.max_objects} BYTES elements")
    if len(raw) > _COUNT_FIRST_BYTES:
        _check_form(where, raw, wire, shape, count, limits)
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidRequest(
            f"{where}: data cannot be read: malformed text, arrays nested too deeply, or a number "
            "beyond the range of FP64"
        ) from None
    flat = _flatten(data, shape)
    if flat is not None and len(flat) == count:
        array = _convert(flat, raw, wire)
        if array is not None:
            return array.reshape(shape)
    raise _explain(where, data, wire, shape, count)


def _check_form(
    where: str, raw: bytes, wire: WireType, shape: tuple[int, ...], count: int, limits: CodecLimits
) -> None:
    """Refuse, by counting characters alone, JSON that cannot be `count` elements, flat or nested like the shape."""
    form = _STRING.sub(b"", raw) if wire.kind == "text" else raw
    given = form.count(b",") + 1
    if given != count:
        raise _wrong_count(where, shape, count, given)
    arrays = form.count(b"[")
    nested = sum(math.prod(shape[:depth]) for depth in range(1, len(shape))) + 1
    if arrays not in (1, nested) or b"{" in form or b'"' in form:
        raise InvalidRequest(
            f"{where}: expected an array, flat or nested like shape {show_shape(shape)}, each element {wire.expects}"
        )
    if arrays > limits.max_objects:
        raise PayloadTooLarge(f"{where}: nested in more than {limits.max_objects} arrays: send the data flat")


def _convert(flat: list[Any], raw: bytes, wire: WireType) -> Array | None:
    """The elements as an array; None when one of them does not belong there."""
    if wire.struct_code:
        # `raw` is arrays of numbers, or something struct refuses, or it has one of these letters of
        # true, false and null.
        if b"u" in raw or b"l" in raw:
            return None
        try:
            packed = struct.pack(f"<{len(flat)}{wire.struct_code}", *flat)
        except (struct.error, OverflowError):
            return None
        return np.frombuffer(packed, wire.dtype)
    kinds = set(map(type, flat))
    if wire.kind == "bool":
        return np.frombuffer(bytes(flat), wire.dtype) if kinds == {bool} else None
    if kinds != {str}:
        return None
    texts = np.empty(len(flat), wire.dtype)
    texts[:] = [text.encode() for text in flat]
    return texts


def _flatten(data: list[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """The elements in row-major order; None when the nesting is not that of the shape.

    Elements are not looked at: an array among them is left for the conversion to refuse.
    """
    if len(shape) < 2 or not data or type(data[0]) is not list:
        return data
    if len(data) != shape[0]:
        return None
    level = data
    for dim in shape[1:]:
        if set(map(type, level)) != {list} or set(map(len, level)) != {dim}:
            return None
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
    return level


def _empty(where: str, raw: bytes, wire: WireType, shape: tuple[int, ...]) -> Array:
    """An array without elements. Its JSON is compared as text, never parsed: `[[],[],` grows twentyfold."""
    text = raw.translate(None, b" \t\r\n")
    nested = b"[]"
    for dim in reversed(shape[: shape.index(0)]):
        if dim * (len(nested) + 1) > len(text) + 1:  # longer than the text: cannot be equal
            nested = b""
            break
        nested = b"[" + b",".join([nested] * dim) + b"]"
    if text not in (b"[]", nested):
        raise InvalidRequest(f"{where}: expected no values for shape {show_shape(shape)}")
    return np.empty(shape, wire.dtype)


def _explain(where: str, data: list[Any], wire: WireType, shape: tuple[int, ...], count: int) -> InvalidRequest:
    """The first thing that is wrong with refused data. Costs no more than a few times its conversion."""
    level = data
    known: tuple[int, ...] = (count,)
    if len(shape) >= 2 and data and type(data[0]) is list:
        if len(data) != shape[0]:
            return InvalidRequest(f"{where}: data: expected an array of {shape[0]}, got {len(data)} items")
        for depth, dim in enumerate(shape[1:], start=1):
            for index, item in enumerate(level):
                if type(item) is not list or len(item) != dim:
                    got = f"{len(item)} items" if type(item) is list else _show(item)
                    place = _place(index, shape[:depth])
                    return InvalidRequest(f"{where}: {place}: expected an array of {dim}, got {got}")
            level = list(chain.from_iterable(level))
        known = shape
    elif len(data) != count:
        return _wrong_count(where, shape, count, len(data))
    index = _first_wrong(level, wire)
    return InvalidRequest(f"{where}: {_place(index, known)}: expected {wire.expects}, got {_show(level[index])}")


def _first_wrong(flat: list[Any], wire: WireType) -> int:
    """Where the first element is that cannot be converted: by pieces, then one by one."""
    for start in range(0, len(flat), _PIECE):
        piece = flat[start : start + _PIECE]
        if _convert(piece, _letters(piece), wire) is None:
            break
    return next(
        index for index, item in enumerate(flat[start:], start) if _convert([item], _letters([item]), wire) is None
    )


def _letters(items: list[Any]) -> bytes:
    """What `_convert` looks for in the text of these items: a letter if there is a true or a false."""
    return b"u" if bool in set(map(type, items)) else b""


def _place(index: int, shape: tuple[int, ...]) -> str:
    """Path in nested data of the element that comes `index`-th in row-major order."""
    steps = []
    for dim in reversed(shape):
        index, step = divmod(index, dim)
        steps.append(f"[{step}]")
    return "data" + "".join(reversed(steps))


def _show(value: object) -> str:
    """A JSON value in a few characters."""
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, dict):
        return "an object"
    return orjson.dumps(value).decode()


def _wrong_count(where: str, shape: tuple[int, ...], count: int, given: int) -> InvalidRequest:
    return InvalidRequest(f"{where}: expected {count} values for shape {show_shape(shape)}, got {given}")
