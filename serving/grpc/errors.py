"""The one table from the core's errors to gRPC, and how an error looks on the wire."""

from enum import IntEnum
from math import ceil

from serving.codec.compression import UnsupportedEncoding
from serving.core.errors import (
    Cancelled,
    ControlRefused,
    Expired,
    GearshiftError,
    Infeasible,
    InputRefusedByModel,
    InternalError,
    InvalidRequest,
    PayloadTooLarge,
    Rejected,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)
from serving.http2.hpack import Field


class Code(IntEnum):
    """The status codes of gRPC that are used here."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class CallRefused(GearshiftError):
    """What only gRPC knows: no such method, a broken message, a service that is not offered."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


STATUS: dict[type[GearshiftError], Code] = {
    InvalidRequest: Code.INVALID_ARGUMENT,
    UnsupportedEncoding: Code.UNIMPLEMENTED,
    PayloadTooLarge: Code.RESOURCE_EXHAUSTED,
    Unauthenticated: Code.UNAUTHENTICATED,
    UnknownModel: Code.NOT_FOUND,
    ControlRefused: Code.INVALID_ARGUMENT,
    Infeasible: Code.INVALID_ARGUMENT,
    InputRefusedByModel: Code.INVALID_ARGUMENT,
    Rejected: Code.RESOURCE_EXHAUSTED,
    Cancelled: Code.CANCELLED,
    InternalError: Code.INTERNAL,
    Unavailable: Code.UNAVAILABLE,
    Expired: Code.DEADLINE_EXCEEDED,
}
"""A message above the limit is RESOURCE_EXHAUSTED in every implementation of gRPC; what tells it from an overload
is that the latter says when to try again."""


def code_of(error: GearshiftError) -> Code:
    """The status of an error: that of its nearest class in the table."""
    if isinstance(error, CallRefused):
        return error.code
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), Code.INTERNAL)


def error_fields(error: GearshiftError) -> list[Field]:
    """The trailers of a call that ended with this error.

    `grpc-retry-pushback-ms` is what the retry policy of gRPC's clients reads; -1 tells them not to try again.
    """
    fields = [(b"grpc-status", b"%d" % code_of(error)), (b"grpc-message", _escaped(str(error)))]
    match error:
        case Rejected(retry_after_s=wait_s):
            fields.append((b"grpc-retry-pushback-ms", b"%d" % max(1, ceil(wait_s * 1e3))))
            fields.append((b"retry-after", b"%d" % max(1, ceil(wait_s))))
        case Unavailable():
            fields.append((b"retry-after", b"1"))
        case PayloadTooLarge():
            fields.append((b"grpc-retry-pushback-ms", b"-1"))
    return fields


def _escaped(text: str) -> bytes:
    """Percent-encoded as gRPC wants it: everything but printable ASCII, and the percent sign."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode()
    )
