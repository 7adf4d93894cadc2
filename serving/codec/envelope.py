"""The JSON of a request, typed but without its data: who is sent, in which form, and what is asked for.

Data and every section that could grow stay raw JSON, to be read with a bound or not at all. Unknown keys are
skipped, as clients send extras. `msgspec` limits its own recursion, also where it skips.
"""

from typing import Annotated, TypeVar

import msgspec

from serving.codec.limits import CodecLimits
from serving.codec.shapes import MAX_DIM
from serving.core.errors import InvalidRequest, PayloadTooLarge

Parameter = bool | int | float | str
"""A value of the protocol's `parameters`."""

OptionalRaw = msgspec.Raw | msgspec.UnsetType
"""JSON not read yet, or absent."""

_T = TypeVar("_T")


class RawInput(msgspec.Struct, gc=False):
    """One input as sent."""

    name: str
    datatype: str
    shape: msgspec.Raw
    parameters: OptionalRaw = msgspec.UNSET
    data: OptionalRaw = msgspec.UNSET


class Envelope(msgspec.Struct, gc=False):
    """A request as sent."""

    inputs: list[RawInput]
    id: str | None = None
    parameters: OptionalRaw = msgspec.UNSET
    outputs: OptionalRaw = msgspec.UNSET


class InputParameters(msgspec.Struct, gc=False):
    """What an input's `parameters` may say to the codec."""

    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    shared_memory_region: OptionalRaw = msgspec.UNSET


class OutputParameters(msgspec.Struct, gc=False):
    """What a requested output's `parameters` may say to the codec."""

    binary_data: bool | None = None
    classification: Annotated[int, msgspec.Meta(ge=0, le=MAX_DIM)] = 0
    shared_memory_region: OptionalRaw = msgspec.UNSET


class RawOutput(msgspec.Struct, gc=False):
    """One requested output as sent."""

    name: str
    parameters: OutputParameters | None = None


_ENVELOPE = msgspec.json.Decoder(Envelope)
_SHAPE = msgspec.json.Decoder(tuple[int, ...])
_INPUT_PARAMETERS = msgspec.json.Decoder(InputParameters)
_OUTPUTS = msgspec.json.Decoder(list[RawOutput])
_PARAMETERS = msgspec.json.Decoder(dict[str, Parameter])


def given(raw: OptionalRaw) -> bytes | None:
    """The JSON text of an optional section, without whitespace around it; None where it is absent or null."""
    if isinstance(raw, msgspec.UnsetType):
        return None
    text = bytes(raw)
    return None if text == b"null" else text


def read_envelope(body: bytes | memoryview) -> Envelope:
    """The request that `body` holds. Raises `InvalidRequest` where it is not JSON of that form."""
    return _read(_ENVELOPE, body, "request body")


def read_shape(raw: RawInput, limits: CodecLimits) -> tuple[int, ...]:
    """The shape of an input: integers, not yet checked. Raises `InvalidRequest`, `PayloadTooLarge`."""
    return _read_section(_SHAPE, bytes(raw.shape), f"input '{raw.name}': shape", limits)


def read_input_parameters(raw: RawInput, limits: CodecLimits) -> InputParameters | None:
    """What an input says of its form. Raises `InvalidRequest`, `PayloadTooLarge`."""
    text = given(raw.parameters)
    if text is None:
        return None
    return _read_section(_INPUT_PARAMETERS, text, f"input '{raw.name}': parameters", limits)


def read_outputs(raw: OptionalRaw, limits: CodecLimits) -> list[RawOutput]:
    """The outputs asked for; empty for all. Raises `InvalidRequest`, `PayloadTooLarge`."""
    text = given(raw)
    if text is None:
        return []
    outputs = _read_section(_OUTPUTS, text, "outputs", limits)
    if len(outputs) > limits.max_tensors:
        raise PayloadTooLarge(f"outputs: more than {limits.max_tensors}")
    return outputs


def read_parameters(raw: OptionalRaw, limits: CodecLimits) -> dict[str, Parameter]:
    """The parameters of the request. Raises `InvalidRequest`, `PayloadTooLarge`."""
    text = given(raw)
    if text is None:
        return {}
    parameters = _read_section(_PARAMETERS, text, "parameters", limits)
    if len(parameters) > limits.max_parameters:
        raise PayloadTooLarge(f"parameters: more than {limits.max_parameters}")
    for value in parameters.values():
        if isinstance(value, str):
            if len(value) > limits.max_text_chars:
                raise PayloadTooLarge(f"parameters: a text longer than {limits.max_text_chars} characters")
        elif not isinstance(value, float) and not -(2**63) <= value < 2**64:
            raise InvalidRequest("parameters: an integer beyond 64 bits")
    return parameters


def _read_section(decoder: msgspec.json.Decoder[_T], text: bytes, what: str, limits: CodecLimits) -> _T:
    if len(text) > limits.max_section_bytes:
        raise PayloadTooLarge(f"{what}: longer than {limits.max_section_bytes} bytes of JSON")
    return _read(decoder, text, what)


def _read(decoder: msgspec.json.Decoder[_T], raw: bytes | memoryview, what: str) -> _T:
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        # These texts name types and places of this module's own fields; they never quote the caller.
        raise InvalidRequest(f"{what}: {error}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{what}: text is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest(f"{what}: nested too deeply") from None
