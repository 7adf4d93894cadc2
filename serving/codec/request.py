"""Body of an inference request -> arrays that fit the family, or an error that says what does not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from models.manifest import Family, TensorSpec
from serving.codec import envelope
from serving.codec.binary_tensor import tensor_from_binary
from serving.codec.datatypes import WIRE_TYPES, Array
from serving.codec.envelope import Parameter, RawInput, RawOutput
from serving.codec.json_tensor import tensor_from_json
from serving.codec.limits import CodecLimits
from serving.codec.naming import input_spec, output_spec, require_all
from serving.codec.shapes import check_datatype, check_rows, check_shape, expected_names, show_shape
from serving.core.errors import InvalidRequest, PayloadTooLarge


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output a caller asked for."""

    name: str
    binary: bool = False
    classification: int = 0
    """Best classes wanted for each row, as texts; 0 for the scores themselves."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference request whose inputs fit its family."""

    inputs: dict[str, Array]
    """C-contiguous, of the family's datatypes; may be read-only and share the memory of the body."""
    rows: int
    """Length of the batch axis; 1 for a family that cannot be batched."""
    id: str | None = None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    """As sent, reserved names included."""
    outputs: tuple[RequestedOutput, ...] = ()
    """Empty: all outputs of the family."""
    binary_output_default: bool = False
    """Form of the outputs when `outputs` is empty."""


class _Tensor(NamedTuple):
    """One input whose head is checked and whose data is not read yet."""

    spec: TensorSpec
    raw: RawInput
    shape: tuple[int, ...]
    elements: int


def decode_request(body: bytes, *, header_length: int | None, family: Family, limits: CodecLimits) -> InferRequest:
    """The request that `body` holds: JSON; or, where `header_length` (the value of the header
    Inference-Header-Content-Length) is given, that many bytes of JSON and then binary tensors; or, where it is
    0, nothing but the one input of the family.

    Raises `InvalidRequest` and `PayloadTooLarge`, never anything else, whatever the bytes.
    """
    json_length = len(body) if header_length is None else header_length
    if not 0 <= json_length <= len(body):
        raise InvalidRequest(f"Inference-Header-Content-Length: expected 0 to {len(body)} (the length of the body)")
    if json_length > limits.max_json_bytes:
        raise PayloadTooLarge(f"the JSON part is longer than {limits.max_json_bytes} bytes")
    if len(body) - json_length > limits.max_binary_bytes:
        raise PayloadTooLarge(f"the binary part is longer than {limits.max_binary_bytes} bytes")
    if header_length == 0:
        return _decode_raw(body, family, limits)

    head = envelope.read_envelope(memoryview(body)[:json_length] if json_length < len(body) else body)
    if head.id is not None and len(head.id) > limits.max_text_chars:
        raise PayloadTooLarge(f"id: longer than {limits.max_text_chars} characters")
    parameters = envelope.read_parameters(head.parameters, limits)
    binary_default = parameters.get("binary_data_output", False)
    if type(binary_default) is not bool:
        raise InvalidRequest("parameters: binary_data_output must be true or false")
    asked = envelope.read_outputs(head.outputs, limits)
    outputs = _outputs(asked, family, binary_default=binary_default) if asked else ()
    if not outputs and not binary_default:
        _require_json_form(family.outputs)
    tensors = _match(head.inputs, family, limits)
    rows = check_rows(family, [tensor.shape for tensor in tensors])
    inputs = _read_data(tensors, memoryview(body)[json_length:], limits)
    return InferRequest(inputs, rows, head.id or None, parameters, outputs, binary_default)


def _match(raw_inputs: Sequence[RawInput], family: Family, limits: CodecLimits) -> list[_Tensor]:
    """Each input as sent with its spec, in the order sent; each spec exactly once."""
    if len(raw_inputs) > limits.max_tensors:
        raise PayloadTooLarge(f"inputs: more than {limits.max_tensors}")
    specs = {spec.name: spec for spec in family.inputs}
    seen: set[str] = set()
    tensors = []
    for raw in raw_inputs:
        spec = input_spec(family, specs, raw.name, seen)
        seen.add(raw.name)
        check_datatype(family.name, spec, raw.datatype)
        shape = envelope.read_shape(raw, limits)
        tensors.append(_Tensor(spec, raw, shape, check_shape(family.name, spec, shape)))
    require_all(family, specs, seen)
    return tensors


def _read_data(tensors: Sequence[_Tensor], binary: memoryview, limits: CodecLimits) -> dict[str, Array]:
    """The arrays; binary ones take their bytes one after the other, and together all of them."""
    inputs = {}
    used = 0
    for tensor in tensors:
        name, raw = tensor.spec.name, tensor.raw
        wire = WIRE_TYPES[tensor.spec.datatype]
        size = _binary_size(raw, limits)
        data = envelope.given(raw.data)
        if size is None:
            if data is None:
                raise InvalidRequest(f"input '{name}': expected data, or binary_data_size in its parameters")
            inputs[name] = tensor_from_json(name, data, wire, tensor.shape, tensor.elements, limits)
            continue
        if data is not None:
            raise InvalidRequest(f"input '{name}': expected data or binary_data_size, got both")
        if size > len(binary) - used:
            raise InvalidRequest(f"input '{name}': binary_data_size is {size}, but {len(binary) - used} bytes are left")
        chunk = binary[used : used + size]
        used += size
        inputs[name] = tensor_from_binary(name, chunk, wire, tensor.shape, tensor.elements, limits)
    if used != len(binary):
        raise InvalidRequest(f"{len(binary) - used} bytes after the last binary tensor")
    return inputs


def _binary_size(raw: RawInput, limits: CodecLimits) -> int | None:
    parameters = envelope.read_input_parameters(raw, limits)
    if parameters is None:
        return None
    if envelope.given(parameters.shared_memory_region) is not None:
        raise InvalidRequest(f"input '{raw.name}': shared memory is not offered")
    size = parameters.binary_data_size
    if size is not None and size > limits.max_binary_bytes:
        raise PayloadTooLarge(f"input '{raw.name}': binary_data_size is above {limits.max_binary_bytes}")
    return size


def _outputs(asked: Sequence[RawOutput], family: Family, *, binary_default: bool) -> tuple[RequestedOutput, ...]:
    specs = {spec.name: spec for spec in family.outputs}
    wanted: dict[str, RequestedOutput] = {}
    for raw in asked:
        parameters = raw.parameters or envelope.OutputParameters()
        spec = output_spec(
            family,
            specs,
            raw.name,
            wanted,
            classification=parameters.classification,
            shared_memory=envelope.given(parameters.shared_memory_region) is not None,
        )
        binary = binary_default if parameters.binary_data is None else parameters.binary_data
        if not binary and not parameters.classification:
            _require_json_form((spec,))
        wanted[raw.name] = RequestedOutput(raw.name, binary, parameters.classification)
    return tuple(wanted.values())


def _require_json_form(specs: Sequence[TensorSpec]) -> None:
    """Refused here, before anything is computed for an answer that could not be written."""
    for spec in specs:
        if spec.datatype == "BF16":
            raise InvalidRequest(f"output '{spec.name}': BF16 has no JSON form: ask for binary_data")


def _decode_raw(body: bytes, family: Family, limits: CodecLimits) -> InferRequest:
    """A body that is the data of the only input: there is no JSON to say its shape, so it follows from the size.

    Answers are binary, as there is no place to ask for JSON.
    """
    if len(family.inputs) != 1:
        raise InvalidRequest(
            f"a raw body needs a model of one input: model '{family.name}' expects: {expected_names(family.inputs)}"
        )
    (spec,) = family.inputs
    wire = WIRE_TYPES[spec.datatype]
    if wire.kind == "text":
        # One element without its length prefix.
        shape = tuple(1 if dim == -1 else dim for dim in spec.shape)
        body = len(body).to_bytes(4, "little") + body
    else:
        shape = _shape_of_raw(spec, len(body), wire.itemsize)
    count = check_shape(family.name, spec, shape)
    if wire.kind == "text" and count != 1:
        raise InvalidRequest(f"input '{spec.name}': a raw body is one element, the shape needs {count}")
    rows = check_rows(family, [shape])
    array = tensor_from_binary(spec.name, body, wire, shape, count, limits)
    return InferRequest({spec.name: array}, rows, binary_output_default=True)


def _shape_of_raw(spec: TensorSpec, size: int, itemsize: int) -> tuple[int, ...]:
    if spec.shape.count(-1) > 1:
        raise InvalidRequest(
            f"input '{spec.name}': the size of a raw body does not give the shape {show_shape(spec.shape)}"
        )
    unit = itemsize
    for dim in spec.shape:
        unit *= dim if dim != -1 else 1
    if size % unit or (-1 not in spec.shape and size != unit):
        multiple = "a multiple of " if -1 in spec.shape else ""
        raise InvalidRequest(f"input '{spec.name}': expected {multiple}{unit} bytes, got {size}")
    return tuple(size // unit if dim == -1 else dim for dim in spec.shape)
