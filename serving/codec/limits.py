"""How much of a request the codec is willing to read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """Bounds of one request. Passing one of them raises `PayloadTooLarge`, unless said otherwise."""

    max_json_bytes: int = 8 * 1024 * 1024
    """Length of the JSON part. Far below the binary bound: parsed JSON takes several times its length."""
    max_binary_bytes: int = 64 * 1024 * 1024
    """Length of everything after the JSON part, or of a raw body."""
    max_tensors: int = 64
    """Inputs given, and outputs asked for."""
    max_parameters: int = 64
    """Parameters of the request."""
    max_section_bytes: int = 64 * 1024
    """Length in JSON of each small section: `parameters`, `outputs`, and a tensor's `shape`."""
    max_text_chars: int = 4096
    """Length of the request id, and of a parameter's text."""
    max_objects: int = 262_144
    """BYTES elements of one tensor, and arrays its JSON is nested in: each becomes an object of its own."""
    allow_nan: bool = False
    """Whether binary tensors may hold NaN and infinities. Refused by default (`InvalidRequest`): JSON cannot
    hold them, and one NaN row can spoil what a model computes for it without any error."""
