from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.http import InferResult

from serving.codec.datatypes import WIRE_TYPES, Array
from serving.codec.request import InferRequest, RequestedOutput
from serving.codec.response import encode_response
from serving.core.errors import InternalError, InvalidRequest

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def asking(*outputs: RequestedOutput, binary: bool = False, request_id: str | None = None) -> InferRequest:
    return InferRequest({}, 1, id=request_id, outputs=outputs, binary_output_default=binary)


def one_output(wire: Any, datatype: str, rank: int = 2, labels: tuple[str, ...] | None = None) -> Any:
    shape = (-1,) * (rank - 1) + ((len(labels),) if labels else (-1,))
    return wire.family([wire.spec("x", "FP32", (-1,))], [wire.spec("y", datatype, shape, labels)])


def test_a_json_answer(wire: Any) -> None:
    outputs = {"y": np.array([[0.1, 2]], np.float32)}
    body, header_length = encode_response(
        one_output(wire, "FP32"), asking(request_id="a"), outputs, {"variant": "int8", "deadline_met": True}
    )
    assert header_length is None
    assert orjson.loads(body) == {
        "model_name": "fashion",
        "model_version": "3",
        "id": "a",
        "parameters": {"variant": "int8", "deadline_met": True},
        "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [0.1, 2.0]}],
    }


def test_id_and_parameters_are_left_out_when_there_are_none(wire: Any) -> None:
    body, _ = encode_response(one_output(wire, "FP32"), asking(), {"y": np.zeros((1, 1), np.float32)})
    assert set(orjson.loads(body)) == {"model_name", "model_version", "outputs"}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", [name for name in WIRE_TYPES if name not in ("BYTES", "BF16")])
@given(data=st.data())
def test_the_reference_client_reads_the_exact_values(
    wire: Any, datatype: str, binary: bool, data: st.DataObject
) -> None:
    dtype = WIRE_TYPES[datatype].dtype
    elements = {} if binary or dtype.kind != "f" else {"allow_nan": False, "allow_infinity": False}
    array = data.draw(hnp.arrays(dtype, SHAPES, elements=hnp.from_dtype(dtype, **elements)))

    body, header_length = encode_response(one_output(wire, datatype, array.ndim), asking(binary=binary), {"y": array})

    assert (header_length is not None) == binary
    got = InferResult.from_response_body(body, header_length=header_length).as_numpy("y")
    assert got.dtype == dtype
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()


@given(texts=hnp.arrays(object, (2, 2), elements=st.binary(max_size=5)))
def test_the_reference_client_reads_binary_texts(wire: Any, texts: Array) -> None:
    body, header_length = encode_response(one_output(wire, "BYTES"), asking(binary=True), {"y": texts})
    got = InferResult.from_response_body(body, header_length=header_length).as_numpy("y")
    assert got.tolist() == texts.tolist()


def test_texts_in_json(wire: Any) -> None:
    texts = np.array([[b"caf\xc3\xa9", "bag"]], object)
    body, _ = encode_response(one_output(wire, "BYTES"), asking(), {"y": texts})
    assert orjson.loads(body)["outputs"][0]["data"] == ["café", "bag"]
    with pytest.raises(InvalidRequest, match="output 'y': bytes that are not UTF-8: ask for binary_data"):
        encode_response(one_output(wire, "BYTES"), asking(), {"y": np.array([[b"\xff"]], object)})


def test_numpy_texts_are_texts_too(wire: Any) -> None:
    body, _ = encode_response(one_output(wire, "BYTES"), asking(), {"y": np.array([["a", "é"]])})
    assert orjson.loads(body)["outputs"][0]["data"] == ["a", "é"]


def test_non_finite_values_become_null_and_are_told(wire: Any) -> None:
    family = wire.family(
        [wire.spec("x", "FP32", (-1,))], [wire.spec("y", "FP32", (-1,)), wire.spec("null", "FP64", (-1,))]
    )
    outputs = {"y": np.array([1, np.nan, np.inf], np.float32), "null": np.array([1.0])}
    body, _ = encode_response(family, asking(), outputs)
    marked, clean = orjson.loads(body)["outputs"]
    assert marked["data"] == [1.0, None, None]
    assert marked["parameters"] == {"non_finite": True}
    assert "parameters" not in clean


def test_each_output_has_its_own_form_and_order(wire: Any) -> None:
    family = wire.family([wire.spec("x", "FP32", (-1,))], [wire.spec(name, "INT16", (-1,)) for name in "abc"])
    outputs = {name: np.array([index, 9], np.int16) for index, name in enumerate("abc")}
    request = asking(RequestedOutput("c", binary=True), RequestedOutput("b"), RequestedOutput("a", binary=True))

    body, header_length = encode_response(family, request, outputs)

    assert body[header_length:] == b"\x02\0\x09\0\0\0\x09\0"
    entries = orjson.loads(body[:header_length])["outputs"]
    assert [entry["name"] for entry in entries] == ["c", "b", "a"]
    assert [entry.get("parameters") for entry in entries] == [{"binary_data_size": 4}, None, {"binary_data_size": 4}]
    result = InferResult.from_response_body(body, header_length=header_length)
    assert {name: result.as_numpy(name).tolist() for name in "abc"} == {"a": [0, 9], "b": [1, 9], "c": [2, 9]}


@pytest.mark.parametrize("binary", [False, True])
def test_classification(wire: Any, binary: bool) -> None:
    family = one_output(wire, "FP32", labels=("bag", "boot"))
    request = asking(RequestedOutput("y", binary=binary, classification=1))
    body, header_length = encode_response(family, request, {"y": np.array([[0.25, 0.5], [1, 0]], np.float32)})
    got = InferResult.from_response_body(body, header_length=header_length).as_numpy("y")
    assert got.shape == (2, 1)
    expected = ["0.5:1:boot", "1.0:0:bag"]
    assert got.ravel().tolist() == ([text.encode() for text in expected] if binary else expected)


def test_bf16_is_binary_only(wire: Any) -> None:
    family = one_output(wire, "BF16", rank=1)
    bits = np.array([0x3F80, 0x4000], np.uint16)
    body, header_length = encode_response(family, asking(binary=True), {"y": bits})
    assert body[header_length:] == b"\x80\x3f\x00\x40"
    with pytest.raises(InvalidRequest, match="BF16 has no JSON form"):
        encode_response(family, asking(), {"y": bits})


def test_arrays_in_any_memory_order(wire: Any) -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3).T
    for binary in (False, True):
        body, header_length = encode_response(one_output(wire, "INT64"), asking(binary=binary), {"y": array})
        got = InferResult.from_response_body(body, header_length=header_length).as_numpy("y")
        assert got.tolist() == array.tolist()


@pytest.mark.parametrize("outputs", [{}, {"z": np.zeros(1, np.float32)}, {"y": np.zeros((1, 1))}])
def test_a_model_that_breaks_its_promise_is_our_error(wire: Any, outputs: dict[str, Array]) -> None:
    with pytest.raises(InternalError, match="'y'"):
        encode_response(one_output(wire, "FP32"), asking(), outputs)
