"""The header fields of a call: what of them matters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.codec.budget import HEADERS as BUDGET_HEADERS
from serving.door import is_request_id
from serving.http2.hpack import Field
from serving.keys import presented

_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_DIGITS = 8


@dataclass(frozen=True, slots=True)
class CallHead:
    """One call, before its first message."""

    path: bytes
    timeout_s: float | None = None
    """How long the caller waits, from the moment it sent the headers."""
    encoding: str | None = None
    """Coding of messages that are marked as compressed."""
    budget: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the budget that came as metadata."""
    request_id: bytes = b""
    traceparent: str | None = None
    key: bytes | None = field(default=None, repr=False)
    """What the caller presents as its API key."""
    fault: str | None = None
    """Why this is no call of gRPC, where it is none."""


def read_head(fields: Sequence[Field]) -> CallHead:
    """What a call's headers say. Never raises: what is wrong stands in `fault`. Of a field that comes twice, the
    last one counts."""
    sent = dict(fields)
    fault: str | None = None
    if sent.get(b":method") != b"POST" or not sent.get(b"content-type", b"").startswith(b"application/grpc"):
        fault = "expected a POST of application/grpc"
    timeout_s: float | None = None
    if (timeout := sent.get(b"grpc-timeout")) is not None:
        timeout_s = _timeout_s(timeout)
        if timeout_s is None:
            fault = "grpc-timeout: expected up to 8 digits and one of H, M, S, m, u, n"
    request_id = sent.get(b"x-request-id", b"")
    return CallHead(
        path=sent.get(b":path", b""),
        timeout_s=timeout_s,
        encoding=_text(sent.get(b"grpc-encoding")),
        budget={BUDGET_HEADERS[name]: value.decode("latin-1") for name, value in fields if name in BUDGET_HEADERS},
        request_id=request_id if is_request_id(request_id) else b"",
        traceparent=_text(sent.get(b"traceparent")),
        key=presented(fields) if b"authorization" in sent or b"x-api-key" in sent else None,
        fault=fault,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1").strip().lower()


def _timeout_s(value: bytes) -> float | None:
    digits, unit = value[:-1], value[-1:]
    if not digits.isdigit() or len(digits) > _MAX_TIMEOUT_DIGITS or unit not in _UNITS_S:
        return None
    return int(digits) * _UNITS_S[unit]
