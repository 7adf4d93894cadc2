"""ModelInferRequest -> arrays that fit the family, or an error that says what does not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from models.manifest import Family, TensorSpec
from serving.codec.binary_tensor import tensor_from_binary
from serving.codec.datatypes import WIRE_TYPES, Array, WireType
from serving.codec.envelope import Parameter
from serving.codec.limits import CodecLimits
from serving.codec.naming import input_spec, output_spec, require_all
from serving.codec.request import InferRequest, RequestedOutput
from serving.codec.shapes import MAX_DIM, check_datatype, check_rows, check_shape, show_shape
from serving.core.errors import InvalidRequest, PayloadTooLarge

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of a datatype stand when they are not sent raw. FP16 and BF16 have no such place."""


def read_message(kind: Any, message: bytes | bytearray) -> Any:
    """A message of that generated class. Raises `InvalidRequest`."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"the message is not a {kind.DESCRIPTOR.name}") from None


def read_parameters(sent: Mapping[str, Any], limits: CodecLimits) -> dict[str, Parameter]:
    """The parameters of a request. Raises `InvalidRequest`, `PayloadTooLarge`."""
    if not sent:
        return {}
    if len(sent) > limits.max_parameters:
        raise PayloadTooLarge(f"parameters: more than {limits.max_parameters}")
    parameters: dict[str, Parameter] = {}
    for name, value in sent.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest("parameters: one of them has no value")
        parameters[name] = getattr(value, choice)
        if choice == "string_param" and len(value.string_param) > limits.max_text_chars:
            raise PayloadTooLarge(f"parameters: a text longer than {limits.max_text_chars} characters")
    return parameters


def decode_request(
    message: pb.ModelInferRequest, parameters: dict[str, Parameter], *, family: Family, limits: CodecLimits
) -> InferRequest:
    """The request of a message whose parameters were read already. Raises `InvalidRequest`, `PayloadTooLarge`."""
    if len(message.id) > limits.max_text_chars:
        raise PayloadTooLarge(f"id: longer than {limits.max_text_chars} characters")
    outputs = _outputs(message.outputs, family, limits) if message.outputs else ()
    sent = message.inputs
    if len(sent) > limits.max_tensors:
        raise PayloadTooLarge(f"inputs: more than {limits.max_tensors}")
    raw = message.raw_input_contents
    if raw and len(raw) != len(sent):
        raise InvalidRequest(f"raw_input_contents: expected one for each of {len(sent)} inputs, got {len(raw)}")
    specs = {spec.name: spec for spec in family.inputs}
    inputs: dict[str, Array] = {}
    shapes: list[tuple[int, ...]] = []
    for place, tensor in enumerate(sent):
        spec = input_spec(family, specs, tensor.name, inputs)
        check_datatype(family.name, spec, tensor.datatype)
        shape = tuple(tensor.shape)
        count = check_shape(family.name, spec, shape)
        if tensor.parameters and "shared_memory_region" in tensor.parameters:
            raise InvalidRequest(f"input '{spec.name}': shared memory is not offered")
        if raw:
            if tensor.HasField("contents"):
                raise InvalidRequest(f"input '{spec.name}': expected contents or raw_input_contents, got both")
            data = raw[place]
        else:
            data = _typed(spec, tensor.contents, shape, count, limits)
        inputs[spec.name] = tensor_from_binary(spec.name, data, WIRE_TYPES[spec.datatype], shape, count, limits)
        shapes.append(shape)
    require_all(family, specs, inputs)
    return InferRequest(inputs, check_rows(family, shapes), message.id or None, parameters, outputs, True)


def _typed(spec: TensorSpec, contents: Any, shape: Sequence[int], count: int, limits: CodecLimits) -> bytes:
    """Elements from the field of their datatype, in binary form: all further checks are those of binary tensors."""
    wire = WIRE_TYPES[spec.datatype]
    name = _CONTENTS.get(spec.datatype)
    if name is None:
        raise InvalidRequest(f"input '{spec.name}': {spec.datatype} has no typed contents: use raw_input_contents")
    given = getattr(contents, name)
    if len(given) != count:
        other = next((field.name for field, _ in contents.ListFields() if field.name != name), None)
        if other is not None and not given:
            raise InvalidRequest(f"input '{spec.name}': expected {name} for {spec.datatype}, got {other}")
        raise InvalidRequest(
            f"input '{spec.name}': expected {count} elements for shape {show_shape(shape)}, got {len(given)}"
        )
    if wire.kind == "text":
        if count > limits.max_objects:
            raise PayloadTooLarge(f"input '{spec.name}': more than {limits.max_objects} BYTES elements")
        return b"".join(part for text in given for part in (len(text).to_bytes(4, "little"), text))
    return _narrowed(spec, wire, given)


def _narrowed(spec: TensorSpec, wire: WireType, given: Sequence[Any]) -> bytes:
    """8 and 16 bit integers come in fields of 32: none may lose anything."""
    if wire.kind != "int" or wire.itemsize >= 4:
        return np.fromiter(given, wire.dtype, len(given)).tobytes()
    wide = np.fromiter(given, np.int64, len(given))
    least, most = np.iinfo(wire.dtype).min, np.iinfo(wire.dtype).max
    if wide.size and (wide.min() < least or wide.max() > most):
        raise InvalidRequest(f"input '{spec.name}': expected each element to be {wire.expects}")
    return wide.astype(wire.dtype).tobytes()


def _outputs(asked: Sequence[Any], family: Family, limits: CodecLimits) -> tuple[RequestedOutput, ...]:
    if len(asked) > limits.max_tensors:
        raise PayloadTooLarge(f"outputs: more than {limits.max_tensors}")
    specs = {spec.name: spec for spec in family.outputs}
    wanted: dict[str, RequestedOutput] = {}
    for output in asked:
        classification = _classification(output) if output.parameters else 0
        output_spec(
            family,
            specs,
            output.name,
            wanted,
            classification=classification,
            shared_memory="shared_memory_region" in output.parameters,
        )
        wanted[output.name] = RequestedOutput(output.name, True, classification)
    return tuple(wanted.values())


def _classification(output: Any) -> int:
    if "classification" not in output.parameters:
        return 0
    value = output.parameters["classification"]
    best: int = value.int64_param or value.uint64_param
    if not 0 <= best <= MAX_DIM or value.WhichOneof("parameter_choice") not in ("int64_param", "uint64_param"):
        raise InvalidRequest("outputs: classification must be a number of classes")
    return best
