import math
from typing import Any, get_args

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.manifest import Datatype
from serving.codec.datatypes import WIRE_TYPES, Array
from serving.codec.json_tensor import tensor_from_json
from serving.codec.limits import CodecLimits
from serving.core.errors import InvalidRequest, PayloadTooLarge

LIMITS = CodecLimits()
NUMERIC = [name for name, wire in WIRE_TYPES.items() if wire.kind in ("int", "float")]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


def read(raw: bytes, datatype: str, shape: tuple[int, ...], limits: CodecLimits = LIMITS) -> Array:
    return tensor_from_json("image", raw, WIRE_TYPES[datatype], shape, math.prod(shape), limits)


def refusal(raw: bytes, datatype: str, shape: tuple[int, ...]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(raw, datatype, shape)
    return str(caught.value)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("datatype", [*NUMERIC, "BOOL"])
@given(data=st.data())
def test_values_survive_exactly(datatype: str, nested: bool, data: st.DataObject) -> None:
    dtype = WIRE_TYPES[datatype].dtype
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    array = data.draw(hnp.arrays(dtype, SHAPES, elements=hnp.from_dtype(dtype, **elements)))
    sent = array if nested else array.ravel()

    got = read(orjson.dumps(sent.tolist()), datatype, array.shape)

    assert got.dtype == dtype
    assert got.shape == array.shape
    assert got.flags.c_contiguous
    assert got.tobytes() == array.tobytes()


@pytest.mark.parametrize("nested", [False, True])
@given(array=hnp.arrays(object, SHAPES, elements=st.text(max_size=5)))
def test_texts_become_utf8_bytes(array: Array, nested: bool) -> None:
    got = read(orjson.dumps((array if nested else array.ravel()).tolist()), "BYTES", array.shape)

    assert got.shape == array.shape
    assert got.ravel().tolist() == [text.encode() for text in array.ravel().tolist()]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        *[(name, value) for name in NUMERIC for value in ("null", "true", "false", '"1"', "[1]", "{}", "[]")],
        *[(name, "1.9") for name in NUMERIC if WIRE_TYPES[name].kind == "int"],
        *[(name, "1.0") for name in NUMERIC if WIRE_TYPES[name].kind == "int"],
        *[("BOOL", value) for value in ("null", "1", "0", '"true"', "[true]", "1.0")],
        *[("BYTES", value) for value in ("null", "1", "true", '["a"]', '{"a":1}')],
        ("UINT8", "256"), ("UINT8", "-1"), ("INT8", "128"), ("INT8", "-129"),
        ("UINT64", "18446744073709551616"), ("UINT64", "-1"), ("INT64", "9223372036854775808"),
        ("FP16", "65520"), ("FP16", "-1e5"), ("FP32", "1e39"), ("FP32", "-3.5e38"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("template", ["[%s,%s,%s]", "[[%s],[%s],[%s]]"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_nothing_is_coerced_and_the_place_is_named(datatype: str, value: str, template: str, at: int) -> None:
    good = {"bool": "true", "text": '"a"'}.get(WIRE_TYPES[datatype].kind, "1")
    values = [good] * 3
    values[at] = value
    nested = template.startswith("[[")

    text = refusal((template % tuple(values)).encode(), datatype, (3, 1) if nested else (3,))

    place = f"data[{at}][0]" if nested else f"data[{at}]"
    assert text.startswith(f"input 'image': {place}: expected ")


@pytest.mark.parametrize(
    ("raw", "shape", "text"),
    [
        (b"[1,null,3]", (3,), "data[1]: expected an integer from 0 to 255, got null"),
        (b"[1,true,3]", (3,), "data[1]: expected an integer from 0 to 255, got true"),
        (b"[1,1.9,3]", (3,), "data[1]: expected an integer from 0 to 255, got 1.9"),
        (b'[1,"2",3]', (3,), "data[1]: expected an integer from 0 to 255, got a string"),
        (b"[1,2]", (3,), "expected 3 values for shape [3], got 2"),
        (b"[1,2]", (1, 3), "expected 3 values for shape [1,3], got 2"),
        (b"[[1,2]]", (1, 3), "data[0]: expected an array of 3, got 2 items"),
        (b"[[1,2,3],[1,2,3]]", (1, 3), "data: expected an array of 1, got 2 items"),
        (b"[[1,2,3],4]", (2, 3), "data[1]: expected an array of 3, got 4"),
        (b"[[1,2,3],{}]", (2, 3), "data[1]: expected an array of 3, got an object"),
        (b"[[1,2],[3,4]]", (4, 1), "data: expected an array of 4, got 2 items"),
        (b"[[1,2],[3,[4]]]", (2, 2), "data[1][1]: expected an integer from 0 to 255, got an array"),
        (b"7", (1,), "expected data to be an array"),
        (b'"abc"', (3,), "expected data to be an array"),
        (b'{"0":1}', (1,), "expected data to be an array"),
        (b"[0]", (0,), "expected no values for shape [0]"),
        (b"[[],[],[]]", (2, 0), "expected no values for shape [2,0]"),
    ],
)
def test_messages(raw: bytes, shape: tuple[int, ...], text: str) -> None:
    assert refusal(raw, "UINT8", shape) == f"input 'image': {text}"


def test_a_float_out_of_range_is_named() -> None:
    assert (
        refusal(b"[1e39]", "FP32", (1,)) == "input 'image': data[0]: expected a number in the range of FP32, got 1e+39"
    )


@pytest.mark.parametrize("raw", [b"[1e400]", b"[1,]", b"[1", b"[NaN]", b"[" * 2000 + b"1" + b"]" * 2000])
def test_unreadable_data(raw: bytes) -> None:
    assert "data cannot be read" in refusal(raw, "FP32", (1,))


@pytest.mark.parametrize("at", [0, 1023, 1024, 5000, 9999])
@pytest.mark.parametrize("bad", [None, True, 256])
def test_the_place_is_right_in_long_data_too(at: int, bad: object) -> None:
    values: list[object] = [7] * 10_000
    values[at] = bad
    assert f"data[{at}]: expected an integer" in refusal(orjson.dumps(values), "UINT8", (10_000,))
    rows = [values[start : start + 100] for start in range(0, 10_000, 100)]
    assert f"data[{at // 100}][{at % 100}]: expected" in refusal(orjson.dumps(rows), "UINT8", (100, 100))


def test_strings_are_not_taken_for_arrays_of_characters() -> None:
    assert "data[1]" in refusal(b'[["a","b"],"cd"]', "BYTES", (2, 2))
    assert "data[1]" in refusal(b'[["a","b"],{"c":1,"d":2}]', "BYTES", (2, 2))


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing fails the test."""

    def parse(raw: bytes) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr("serving.codec.json_tensor.orjson.loads", parse)


@pytest.mark.usefixtures("unparsed")
def test_a_long_list_is_counted_before_it_is_parsed() -> None:
    raw = b"[" + b"0," * 1_000_000 + b"0]"
    assert refusal(raw, "FP32", (1, 784)) == "input 'image': expected 784 values for shape [1,784], got 1000001"


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("item", [b"[]", b"{}", b'{"a":1}', b"[[1]]", b"[1]"])
@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "BYTES"])
def test_long_data_of_another_form_is_not_parsed(item: bytes, datatype: str) -> None:
    raw = b"[" + b",".join([item] * 50_000) + b"]"
    text = refusal(raw, datatype, (50_000,))
    assert text.startswith("input 'image': expected an array, flat or nested like shape [50000], each element ")


@pytest.mark.usefixtures("unparsed")
def test_long_data_with_strings_among_numbers_is_not_parsed() -> None:
    raw = b"[" + b'"",' * 49_999 + b'""]'
    assert "each element a number" in refusal(raw, "FP32", (50_000,))


def test_characters_inside_of_long_texts_do_not_count() -> None:
    texts = [["[a,]", '{"b"', "\\", ',"'], ["", '"', "[", "{"]] * 5_000
    raw = orjson.dumps(texts)
    assert read(raw, "BYTES", (10_000, 4)).tolist() == [[text.encode() for text in row] for row in texts]


def test_a_long_list_of_the_right_count_is_read() -> None:
    values = np.arange(50_000, dtype=np.uint16)
    raw = orjson.dumps(values.reshape(50, 1000).tolist())
    assert np.array_equal(read(raw, "UINT16", (50, 1000)).ravel(), values)


@pytest.mark.parametrize("raw", [b"[]", b"[[],[]]", b"[ [ ], [] ]"])
def test_tensors_without_elements(raw: bytes) -> None:
    assert read(raw, "FP32", (2, 0, 3)).shape == (2, 0, 3)


def test_a_tensor_without_elements_is_never_built_from_huge_dimensions() -> None:
    assert read(b"[]", "UINT8", (2**20, 0)).shape == (2**20, 0)
    assert "expected no values" in refusal(b"[[]]", "UINT8", (2**20, 0))


def test_bf16_has_no_json_form() -> None:
    assert "BF16 has no JSON form" in refusal(b"[1]", "BF16", (1,))


def test_texts_are_bounded() -> None:
    with pytest.raises(PayloadTooLarge, match="more than 2 BYTES elements"):
        read(b'["a","b","c"]', "BYTES", (3,), CodecLimits(max_objects=2))


def test_nesting_is_bounded() -> None:
    nested = b"[" + b"[0]," * 49_999 + b"[0]]"
    flat = b"[" + b"0," * 49_999 + b"0]"
    limits = CodecLimits(max_objects=50_000)
    with pytest.raises(PayloadTooLarge, match="nested in more than 50000 arrays"):
        read(nested, "FP32", (50_000, 1), limits)
    assert read(nested, "FP32", (50_000, 1)).shape == (50_000, 1)
    assert read(flat, "FP32", (50_000, 1), limits).shape == (50_000, 1)


def test_a_scalar_is_an_array_of_one() -> None:
    assert read(b"[1.5]", "FP64", ()).shape == ()


def test_every_datatype_of_the_manifest_is_known() -> None:
    assert set(WIRE_TYPES) == set(get_args(Datatype))
