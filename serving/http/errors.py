"""The one table from the core's errors to HTTP, and how an error looks on the wire."""

from math import ceil

import orjson

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

STATUS: dict[type[GearshiftError], int] = {
    InvalidRequest: 400,
    UnsupportedEncoding: 415,
    PayloadTooLarge: 413,
    Unauthenticated: 401,
    UnknownModel: 404,
    ControlRefused: 400,
    Infeasible: 422,
    InputRefusedByModel: 422,
    Rejected: 429,
    Cancelled: 499,
    InternalError: 500,
    Unavailable: 503,
    Expired: 504,
}
"""499 is what nginx logs for a caller who left; nobody is there to read it."""


def status_of(error: GearshiftError) -> int:
    """HTTP status of an error: that of its nearest class in the table."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_body(message: str) -> bytes:
    """An error as every path answers it."""
    return orjson.dumps({"error": message})


def error_headers(error: GearshiftError) -> list[tuple[bytes, bytes]]:
    """Headers that an error adds: when to try again, or what with."""
    match error:
        case Unauthenticated():
            return [(b"www-authenticate", b"Bearer")]
        case Rejected(retry_after_s=wait_s):
            return [(b"retry-after", str(max(1, ceil(wait_s))).encode())]
        case Unavailable():
            return [(b"retry-after", b"1")]
        case _:
            return []
