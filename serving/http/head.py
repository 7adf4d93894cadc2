"""What a request head must be to be understood in one way only (RFC 9112), and within the limits.

httptools accepts a missing or repeated Host, heads of any size and any number of lines.
"""

import urllib.parse
from collections.abc import Sequence
from typing import Final

import httptools

from serving.http.limits import HttpLimits
from serving.http.refusal import Refusal, RequestRefused

Headers = Sequence[tuple[bytes, bytes]]

HOST: Final = 1
LENGTH: Final = 2
CODING: Final = 4
WATCHED: Final = {b"host": HOST, b"content-length": LENGTH, b"transfer-encoding": CODING}
"""Headers that may come once, each with its bit in the set of those seen."""

_LINE_OVERHEAD: Final = 4  # ": " and CRLF


def check_once(seen: int, name: bytes, value: bytes) -> int:
    """`seen` with the bit of the watched header `name`. Raises `RequestRefused` if it was there already."""
    bit = WATCHED[name]
    if seen & bit:
        raise RequestRefused(Refusal(400, f"more than one {name.decode().title()} header"))
    if bit == CODING and value.strip().lower() != b"chunked":
        raise RequestRefused(Refusal(501, "the only Transfer-Encoding understood is chunked"))
    return seen | bit


def check_head(version: str, seen: int) -> None:
    """Raise `RequestRefused` unless the version is ours, the host is named and the framing has one meaning."""
    if version not in ("1.1", "1.0"):
        raise RequestRefused(Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"))
    if not seen & HOST and version == "1.1":
        raise RequestRefused(Refusal(400, "no Host header; HTTP/1.1 requires exactly one"))
    if seen & CODING and (seen & LENGTH or version == "1.0"):
        raise RequestRefused(Refusal(400, "Transfer-Encoding with Content-Length or HTTP/1.0 is ambiguous"))


def check_size(limits: HttpLimits, url: bytes, headers: Headers) -> None:
    """Raise `RequestRefused` if the head is over the limit of bytes."""
    if len(url) + lines_size(headers) > limits.max_header_bytes:
        raise RequestRefused(too_large(limits))


def lines_size(headers: Headers) -> int:
    """Bytes of header lines as they were on the wire."""
    return sum(len(name) + len(value) + _LINE_OVERHEAD for name, value in headers)


def too_large(limits: HttpLimits) -> Refusal:
    """The answer to a head over the limit of bytes."""
    return Refusal(431, f"the request head is larger than {limits.max_header_bytes} bytes")


def too_many(limits: HttpLimits) -> RequestRefused:
    """The answer to a head over the limit of lines."""
    return RequestRefused(Refusal(431, f"more than {limits.max_headers} header lines"))


def split_target(url: bytes) -> tuple[str, bytes, bytes]:
    """Decoded path, raw path and query of a request target. Raises `RequestRefused`."""
    try:
        target = httptools.parse_url(url)
        raw_path = target.path or b"/"  # `http://host` names the root
        path = raw_path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise RequestRefused(Refusal(400, "malformed HTTP request: invalid target")) from None
    return urllib.parse.unquote(path) if "%" in path else path, raw_path, target.query or b""


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The head again, as bytes, without its wish for another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    lines += [name + b": " + value for name, value in headers if name != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"
