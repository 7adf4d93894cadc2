import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.codec.binary_tensor import tensor_from_binary, tensor_to_binary
from serving.codec.datatypes import WIRE_TYPES, Array, bf16_to_fp32
from serving.codec.limits import CodecLimits
from serving.core.errors import InvalidRequest, PayloadTooLarge

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def read(data: bytes | memoryview, datatype: str, shape: tuple[int, ...], **limits: Any) -> Array:
    return tensor_from_binary("image", data, WIRE_TYPES[datatype], shape, math.prod(shape), CodecLimits(**limits))


@pytest.mark.parametrize("datatype", [name for name in WIRE_TYPES if name != "BYTES"])
@given(data=st.data())
def test_values_survive_exactly(datatype: str, data: st.DataObject) -> None:
    wire = WIRE_TYPES[datatype]
    array = data.draw(hnp.arrays(wire.dtype, SHAPES))  # NaN and infinities included
    offset = data.draw(st.integers(0, 9))
    sent = b"x" * offset + tensor_to_binary(array, wire)

    got = read(memoryview(sent)[offset:], datatype, array.shape, allow_nan=True)

    assert got.dtype == wire.dtype
    assert got.shape == array.shape
    assert got.flags.c_contiguous
    assert got.flags.aligned
    assert got.tobytes() == array.tobytes()


@given(array=hnp.arrays(object, SHAPES, elements=st.binary(max_size=6)))
def test_texts_survive_exactly(array: Array) -> None:
    got = read(tensor_to_binary(array, WIRE_TYPES["BYTES"]), "BYTES", array.shape)

    assert got.shape == array.shape
    assert got.ravel().tolist() == array.ravel().tolist()


def test_aligned_data_is_not_copied() -> None:
    sent = np.arange(4, dtype="<f4").tobytes()
    assert not read(sent, "FP32", (4,)).flags.owndata


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_wrong_sizes(size: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"expected 12 bytes for shape \[3\] of FP32, got {size}"):
        read(bytes(size), "FP32", (3,))


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_refused_unless_allowed(datatype: str, value: float) -> None:
    sent = np.array([1, value, 2], WIRE_TYPES[datatype].dtype).tobytes()
    with pytest.raises(InvalidRequest, match="NaN and infinite values are refused"):
        read(sent, datatype, (3,))
    assert np.array_equal(read(sent, datatype, (3,), allow_nan=True)[1], value, equal_nan=True)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_non_finite_bf16_is_refused(bits: int) -> None:
    with pytest.raises(InvalidRequest, match="NaN"):
        read(struct.pack("<2H", 0x3F80, bits), "BF16", (2,))
    assert read(struct.pack("<2H", 0x3F80, 0x7F7F), "BF16", (2,)).tolist() == [0x3F80, 0x7F7F]


def test_bf16_widens_exactly() -> None:
    assert bf16_to_fp32(np.array([[0x3F80, 0xC040]], np.uint16)).tolist() == [[1.0, -3.0]]


def test_a_bool_is_zero_or_one() -> None:
    assert read(b"\x00\x01", "BOOL", (2,)).tolist() == [False, True]
    with pytest.raises(InvalidRequest, match="BOOL"):
        read(b"\x00\x02", "BOOL", (2,))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "expected 2 BYTES elements, got 0"),
        (b"\x01\0\0\0a\0\0", "expected 2 BYTES elements, got 1"),
        (b"\x01\0\0\0a\x02\0\0\0b", "BYTES element 1 claims 2 bytes, but 1 are left"),
        (b"\xff\xff\xff\xff", "BYTES element 0 claims 4294967295 bytes, but 0 are left"),
        (b"\0\0\0\0\0\0\0\0x", "1 bytes after the last of 2 BYTES elements"),
    ],
)
def test_damaged_texts(data: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        read(data, "BYTES", (2,))


def test_texts_are_bounded_by_the_shape_alone() -> None:
    with pytest.raises(PayloadTooLarge):
        read(b"", "BYTES", (2**31 - 1, 2**31 - 1))
