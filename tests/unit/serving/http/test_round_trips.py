"""Tensors of every datatype through the whole HTTP side and back, and what does not fit refused on the way."""

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.manifest import Family, TensorSpec, Variant
from serving.codec.binary_tensor import tensor_to_binary
from serving.codec.datatypes import WIRE_TYPES, Array
from serving.codec.limits import CodecLimits
from serving.http.schemas import INFER_ANSWER
from tests.support.api import Api
from tests.support.gateways import PROFILES

JSON_TYPES = [name for name, wire in WIRE_TYPES.items() if wire.kind != "bits"]
FLOATS = ["FP16", "FP32", "FP64"]
BINARY = {"parameters": {"binary_data_output": True}}
quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mirror(datatype: str) -> Family:
    """A model that answers with its input, of any two dimensions."""
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, -1))
    variants = tuple(Variant(name=name, file=f"{name}.onnx", sha256="0" * 64, size_bytes=1) for name in PROFILES)
    return Family(name=datatype.lower(), version="1", inputs=(spec,), outputs=(spec,), variants=variants)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("api"), [mirror(name) for name in WIRE_TYPES])
    yield api
    api.close()


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Where NaN and infinities are let in."""
    api = Api(tmp_path_factory.mktemp("api"), [mirror(name) for name in WIRE_TYPES], limits=CodecLimits(allow_nan=True))
    yield api
    api.close()


@st.composite
def tensors(draw: st.DrawFn, datatype: str, *, text: bool = False, finite: bool = True) -> Array:
    """An array of one to three rows, which may be empty in the other direction; `text`: BYTES are UTF-8."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(0, 4)))
    wire = WIRE_TYPES[datatype]
    if wire.kind == "text":
        elements: st.SearchStrategy[bytes] = st.binary(max_size=6)
        if text:
            elements = st.text(max_size=5).map(str.encode)
        return draw(hnp.arrays(object, shape, elements=elements))
    if wire.kind == "bits":
        return draw(hnp.arrays(wire.dtype, shape, elements=st.integers(0, 0x7F7F if finite else 0xFFFF)))
    limits = {"allow_nan": False, "allow_infinity": False} if wire.kind == "float" and finite else {}
    return draw(hnp.arrays(wire.dtype, shape, elements=hnp.from_dtype(wire.dtype, **limits)))


def infer(api: Api, datatype: str, document: dict[str, Any], binary: bytes | None = None) -> httpx.Response:
    """Send a request; `binary`: what follows its JSON."""
    body = json.dumps(document).encode()
    headers = {}
    if binary is not None:
        headers["inference-header-content-length"] = str(len(body))
        body += binary
    return api.call("POST", f"/v2/models/{datatype.lower()}/infer", content=body, headers=headers)


def request(datatype: str, shape: tuple[int, ...], **tensor: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": list(shape), **tensor}]}


def in_json(array: Array) -> Any:
    """An array as JSON has it, nested."""
    if array.dtype == object:
        return np.vectorize(lambda item: item.decode(), otypes=[object])(array).tolist() if array.size else []
    return array.tolist()


def holds(data: list[Any], array: Array) -> bool:
    """Whether flat JSON data is exactly that array: a number is written with the digits its datatype needs."""
    if array.dtype.kind == "O":
        return data == in_json(array.ravel())
    return np.array(data, array.dtype).tobytes() == array.tobytes()


def output_of(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    """The one output of an answer of the promised form, and the bytes behind the JSON."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    document = json.loads(answer.content[:length])
    jsonschema.validate(document, INFER_ANSWER)
    (output,) = document["outputs"]
    return output, answer.content[length:]


def refusal_of(answer: httpx.Response) -> str:
    assert answer.status_code in (400, 413), answer.text
    assert answer.json().keys() == {"error"}
    text: str = answer.json()["error"]
    return text


@pytest.mark.parametrize("datatype", JSON_TYPES)
@quick
@given(data=st.data())
def test_json_to_json(api: Api, datatype: str, data: st.DataObject) -> None:
    array = data.draw(tensors(datatype, text=True))
    nested = in_json(array)
    flat = in_json(array.ravel())
    sent = nested if data.draw(st.booleans()) and array.size else flat
    output, rest = output_of(infer(api, datatype, request(datatype, array.shape, data=sent)))
    assert (output["datatype"], output["shape"], rest) == (datatype, list(array.shape), b"")
    assert holds(output["data"], array)


@pytest.mark.parametrize("datatype", list(WIRE_TYPES))
@quick
@given(data=st.data())
def test_binary_to_binary(lenient: Api, datatype: str, data: st.DataObject) -> None:
    array = data.draw(tensors(datatype, finite=False))
    binary = tensor_to_binary(array, WIRE_TYPES[datatype])
    document = request(datatype, array.shape, parameters={"binary_data_size": len(binary)}) | BINARY
    output, rest = output_of(infer(lenient, datatype, document, binary))
    assert output == {
        "name": "x",
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(binary)},
    }
    assert rest == binary


@pytest.mark.parametrize("datatype", JSON_TYPES)
@quick
@given(data=st.data())
def test_json_to_binary_and_back(api: Api, datatype: str, data: st.DataObject) -> None:
    array = data.draw(tensors(datatype, text=True))
    binary = tensor_to_binary(array, WIRE_TYPES[datatype])
    _, rest = output_of(infer(api, datatype, request(datatype, array.shape, data=in_json(array.ravel())) | BINARY))
    assert rest == binary
    document = request(datatype, array.shape, parameters={"binary_data_size": len(binary)})
    output, _ = output_of(infer(api, datatype, document, binary))
    assert holds(output["data"], array)


@pytest.mark.parametrize("datatype", FLOATS)
@quick
@given(data=st.data(), strange=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_json_has_no_word_for(api: Api, lenient: Api, datatype: str, data: st.DataObject, strange: float) -> None:
    array = data.draw(tensors(datatype).filter(lambda found: found.size))
    place = data.draw(st.integers(0, array.size - 1))
    array.ravel()[place] = strange
    binary = tensor_to_binary(array, WIRE_TYPES[datatype])
    document = request(datatype, array.shape, parameters={"binary_data_size": len(binary)})
    assert "NaN and infinite" in refusal_of(infer(api, datatype, document, binary))
    output, _ = output_of(infer(lenient, datatype, document, binary))
    assert output["parameters"] == {"non_finite": True}
    assert [index for index, value in enumerate(output["data"]) if value is None] == [place]


@pytest.mark.parametrize("datatype", JSON_TYPES)
@quick
@given(data=st.data())
def test_a_null_is_refused_with_its_place(api: Api, datatype: str, data: st.DataObject) -> None:
    array = data.draw(tensors(datatype, text=True).filter(lambda found: found.size))
    flat = in_json(array.ravel())
    place = data.draw(st.integers(0, len(flat) - 1))
    flat[place] = None
    text = refusal_of(infer(api, datatype, request(datatype, array.shape, data=flat)))
    assert text.startswith(f"input 'x': data[{place}]: expected ")


@pytest.mark.parametrize("datatype", list(WIRE_TYPES))
@quick
@given(data=st.data(), extra=st.integers(-9, 9).filter(bool))
def test_a_wrong_size_is_refused(api: Api, datatype: str, data: st.DataObject, extra: int) -> None:
    wire = WIRE_TYPES[datatype]
    array = data.draw(tensors(datatype, text=True))
    binary = tensor_to_binary(array, wire)
    wrong = binary + b"\0" * extra if extra > 0 else binary[:extra]
    if wrong != binary:
        told = request(datatype, array.shape, parameters={"binary_data_size": len(wrong)}) | BINARY
        assert "input 'x'" in refusal_of(infer(api, datatype, told, wrong))
        lying = request(datatype, array.shape, parameters={"binary_data_size": len(binary)}) | BINARY
        assert "bytes" in refusal_of(infer(api, datatype, lying, wrong))
    if wire.kind != "bits":
        flat = in_json(array.ravel())
        longer = [*flat, *flat, in_json(np.zeros(1, wire.dtype))[0] if wire.kind != "text" else ""]
        assert "input 'x'" in refusal_of(infer(api, datatype, request(datatype, array.shape, data=longer)))
        if flat:
            assert "input 'x'" in refusal_of(infer(api, datatype, request(datatype, array.shape, data=flat[1:])))


@pytest.mark.parametrize("datatype", list(WIRE_TYPES))
@quick
@given(
    shape=st.lists(st.sampled_from([-(2**63), -1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30]),
                   min_size=1, max_size=4),
    data=st.data(),
)  # fmt: skip
def test_huge_and_negative_dimensions_are_refused(
    api: Api, datatype: str, shape: list[int], data: st.DataObject
) -> None:
    binary = data.draw(st.binary(max_size=16))
    told = request(datatype, tuple(shape), parameters={"binary_data_size": len(binary)}) | BINARY
    fits = shape in ([1, 0], [1, 1])
    answer = infer(api, datatype, told, binary)
    assert fits or "x" in refusal_of(answer) or "rows" in refusal_of(answer)
    if WIRE_TYPES[datatype].kind != "bits" and not fits:
        refusal_of(infer(api, datatype, request(datatype, tuple(shape), data=[])))


def test_texts_that_are_not_utf8_travel_in_binary_only(api: Api) -> None:
    binary = struct.pack("<I", 2) + b"\xff\xfe"
    told = request("BYTES", (1, 1), parameters={"binary_data_size": len(binary)})
    assert "not UTF-8" in refusal_of(infer(api, "BYTES", told, binary))
    assert output_of(infer(api, "BYTES", told | BINARY, binary))[1] == binary


def test_bf16_has_no_json_form(api: Api) -> None:
    assert "BF16" in refusal_of(infer(api, "BF16", request("BF16", (1, 1), data=[1.0]) | BINARY))
    told = request("BF16", (1, 1), parameters={"binary_data_size": 2})
    assert "BF16 has no JSON form" in refusal_of(infer(api, "BF16", told, b"\0\0"))
