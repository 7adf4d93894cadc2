from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2 as pb

from models.manifest import Family, TensorSpec
from serving.codec.datatypes import WIRE_TYPES
from serving.codec.limits import CodecLimits
from serving.codec.request import InferRequest, RequestedOutput
from serving.core.errors import InvalidRequest, PayloadTooLarge
from serving.grpc.request import _CONTENTS, decode_request, read_message, read_parameters
from serving.grpc.response import encode_response
from tests.support.gateways import tagged_family

LIMITS = CodecLimits(max_objects=50, allow_nan=True)
NUMERIC = [wire for wire in WIRE_TYPES.values() if wire.kind != "text"]


def family_of(datatype: str, shape: tuple[int, ...] = (-1, -1), inputs: int = 1) -> Family:
    specs = tuple(TensorSpec(name=f"x{number}", datatype=datatype, shape=shape) for number in range(inputs))
    outputs = (TensorSpec(name="y", datatype=datatype, shape=shape),)
    return tagged_family("m").model_copy(update={"inputs": specs, "outputs": outputs})


def message_of(datatype: str, shape: tuple[int, ...], raw: bytes | None = None) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="x0", datatype=datatype, shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def decode(message: pb.ModelInferRequest, family: Family, limits: CodecLimits = LIMITS) -> InferRequest:
    sent = read_message(pb.ModelInferRequest, message.SerializeToString())
    return decode_request(sent, read_parameters(sent.parameters, limits), family=family, limits=limits)


def elements(datatype: str) -> Any:
    wire = WIRE_TYPES[datatype]
    return arrays.arrays(wire.dtype, st.tuples(st.integers(1, 4), st.integers(0, 3)))


@pytest.mark.parametrize("wire", NUMERIC, ids=lambda wire: wire.name)
@given(data=st.data())
def test_every_datatype_comes_back_raw(wire: Any, data: st.DataObject) -> None:
    array = data.draw(elements(wire.name))
    family = family_of(wire.name)
    request = decode(message_of(wire.name, array.shape, array.tobytes()), family)
    assert request.rows == len(array)
    assert request.inputs["x0"].tobytes() == array.tobytes()
    assert request.inputs["x0"].shape == array.shape
    answer = encode_response(family, request, {"y": request.inputs["x0"]}, {})
    assert (answer.outputs[0].datatype, tuple(answer.outputs[0].shape)) == (wire.name, array.shape)
    assert answer.raw_output_contents[0] == array.tobytes()


@pytest.mark.parametrize("datatype", [name for name in _CONTENTS if name != "BYTES"])
@given(data=st.data())
def test_every_datatype_comes_back_typed(datatype: str, data: st.DataObject) -> None:
    array = data.draw(elements(datatype))
    message = message_of(datatype, array.shape)
    getattr(message.inputs[0].contents, _CONTENTS[datatype]).extend(array.ravel().tolist())
    found = decode(message, family_of(datatype)).inputs["x0"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=6))
def test_texts_come_back_in_both_forms(texts: list[bytes]) -> None:
    family = family_of("BYTES", (-1,))
    raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    typed = message_of("BYTES", (len(texts),))
    typed.inputs[0].contents.bytes_contents.extend(texts)
    for message in (message_of("BYTES", (len(texts),), raw), typed):
        request = decode(message, family)
        assert request.inputs["x0"].tolist() == texts
        assert encode_response(family, request, {"y": request.inputs["x0"]}, {}).raw_output_contents[0] == raw


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 65536)],
)
def test_small_integers_lose_nothing(datatype: str, value: int) -> None:
    message = message_of(datatype, (1, 1))
    getattr(message.inputs[0].contents, _CONTENTS[datatype]).append(value)
    with pytest.raises(InvalidRequest, match="input 'x0': expected each element to be an integer from"):
        decode(message, family_of(datatype))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_have_no_typed_form(datatype: str) -> None:
    message = message_of(datatype, (1, 1))
    message.inputs[0].contents.fp32_contents.append(1.0)
    with pytest.raises(InvalidRequest, match=f"{datatype} has no typed contents: use raw_input_contents"):
        decode(message, family_of(datatype))


def test_nan_is_refused_unless_allowed() -> None:
    message = message_of("FP32", (1, 1), np.array([np.nan], "<f4").tobytes())
    with pytest.raises(InvalidRequest, match="NaN and infinite values are refused"):
        decode(message, family_of("FP32"), CodecLimits())


def wrong(change: str) -> pb.ModelInferRequest:
    message = message_of("FP32", (1, 2), bytes(8))
    exec(change, {"m": message, "t": message.inputs[0]})
    return message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("t.name = 'z'", "unexpected inference input 'z' for model 'm': it expects x0"),
        ("del m.inputs[:]; del m.raw_input_contents[:]", "missing required input(s) ['x0'"),
        ("m.inputs.add().CopyFrom(t); m.raw_input_contents.append(b'')", "input 'x0' already exists in request"),
        ("t.datatype = 'INT8'", "inference input 'x0' data-type is 'INT8', but model 'm' expects 'FP32'"),
        ("t.shape[0] = 3", "input 'x0': expected 24 bytes for shape [3,2] of FP32, got 8"),
        ("t.shape.append(1)", "unexpected shape for input 'x0' for model 'm'. Expected [-1,-1], got [1,2,1]."),
        ("t.shape[0] = -1", "input 'x0': each dimension must be from 0 to 2147483647"),
        ("t.shape[0] = 2**40", "input 'x0': each dimension must be from 0 to 2147483647"),
        ("t.shape[0] = 0; m.raw_input_contents[0] = b''", "expected 1 to 256 rows"),
        ("m.raw_input_contents.append(b'')", "raw_input_contents: expected one for each of 1 inputs, got 2"),
        ("t.contents.fp32_contents.append(1)", "input 'x0': expected contents or raw_input_contents, got both"),
        ("del m.raw_input_contents[:]", "input 'x0': expected 2 elements for shape [1,2], got 0"),
        (
            "del m.raw_input_contents[:]; t.contents.int_contents.extend((1, 2))",
            "input 'x0': expected fp32_contents for FP32, got int_contents",
        ),
        ("t.parameters['shared_memory_region'].string_param = 'r'", "input 'x0': shared memory is not offered"),
        ("m.outputs.add(name='z')", "unexpected inference output 'z' for model 'm': it answers with y"),
        ("m.outputs.add(name='y'); m.outputs.add(name='y')", "output 'y' is asked for twice"),
        (
            "m.outputs.add(name='y').parameters['classification'].string_param = 'a'",
            "outputs: classification must be a number of classes",
        ),
        (
            "m.outputs.add(name='y').parameters['shared_memory_region'].string_param = 'r'",
            "output 'y': shared memory is not offered",
        ),
        ("m.parameters['p'].SetInParent()", "parameters: one of them has no value"),
    ],
)
def test_what_does_not_fit_is_named(change: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(wrong(change), family_of("FP32"))
    assert text in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        "m.id = 'i' * 5000",
        "[m.inputs.add() for _ in range(80)]",
        "[m.outputs.add() for _ in range(80)]",
        "m.parameters['p'].string_param = 'x' * 5000",
        "[m.parameters[str(n)].SetInParent() for n in range(80)]",
    ],
)
def test_what_is_too_much_is_refused(change: str) -> None:
    with pytest.raises(PayloadTooLarge):
        decode(wrong(change), family_of("FP32"))


def test_too_many_texts_are_refused() -> None:
    message = message_of("BYTES", (51,))
    message.inputs[0].contents.bytes_contents.extend([b""] * 51)
    with pytest.raises(PayloadTooLarge):
        decode(message, family_of("BYTES", (-1,)))


def test_outputs_and_parameters_are_read() -> None:
    message = message_of("FP32", (1, 2), bytes(8))
    message.id = "7"
    message.parameters["timeout"].int64_param = 5
    message.parameters["priority"].uint64_param = 6
    message.parameters["variant"].string_param = "small"
    message.parameters["flag"].bool_param = True
    message.parameters["min_accuracy"].double_param = 0.5
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    request = decode(message, family_of("FP32"))
    assert request.id == "7"
    assert request.outputs == (RequestedOutput("y", True, 3),)
    assert request.parameters == {
        "timeout": 5, "priority": 6, "variant": "small", "flag": True, "min_accuracy": 0.5
    }  # fmt: skip


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        decode_request(read_message(pb.ModelInferRequest, data), {}, family=family_of("FP32"), limits=LIMITS)
    except InvalidRequest:
        pass
    else:
        raise AssertionError("no such bytes fit")
