"""Content-Encoding of bodies: decompressed within a bound, compressed when asked and worth it."""

import re
import zlib

from serving.core.errors import InvalidRequest, PayloadTooLarge

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""What zlib calls the two formats. HTTP's "deflate" is a zlib stream (RFC 9110, 8.4.1.2)."""

WORTH_COMPRESSING_BYTES = 1024
"""Below this an answer fits into one packet anyway."""

_LEVEL = 1
"""Tensors hardly compress: higher levels cost several times the time for a few percent."""

_CODING = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*[qQ]=([01](?:\.[0-9]{0,3})?)\s*)?")


class UnsupportedEncoding(InvalidRequest):
    """A Content-Encoding that is not offered (415)."""


def decompress(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """The body without its Content-Encoding: gzip, deflate, or none (also "identity").

    At most `max_bytes` are produced, and a little more memory than twice that is held. Exactly one stream is
    read: a second gzip member is refused like any other trailing bytes, as a body of many tiny members would cost
    time out of proportion. Raises `UnsupportedEncoding`, `PayloadTooLarge`, and `InvalidRequest` for a
    damaged, truncated or continued stream.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        if len(body) > max_bytes:
            raise PayloadTooLarge(f"the body is longer than {max_bytes} bytes")
        return body
    window_bits = _WINDOW_BITS.get(name)
    if window_bits is None:
        raise UnsupportedEncoding("Content-Encoding: expected gzip, deflate or identity")
    stream = zlib.decompressobj(window_bits)
    try:
        plain = stream.decompress(body, max_bytes + 1)
    except zlib.error:
        raise InvalidRequest(f"the body is not a valid {name} stream") from None
    if len(plain) > max_bytes:
        raise PayloadTooLarge(f"the decompressed body is longer than {max_bytes} bytes")
    if not stream.eof:
        raise InvalidRequest(f"the {name} stream of the body ends too early")
    if stream.unused_data:
        raise InvalidRequest(f"the body goes on after its {name} stream")
    return plain


def compress(body: bytes, accept_encoding: str | None) -> tuple[bytes, str | None]:
    """The body in the coding its reader likes best, and the Content-Encoding to say so; None for plain.

    Plain where the reader does not ask, prefers `identity`, where the body is small or does not get smaller. A
    reader that refuses `identity` too gets it nevertheless.
    """
    if not accept_encoding or len(body) <= WORTH_COMPRESSING_BYTES:
        return body, None
    name = preferred_encoding(accept_encoding)
    if name is None:
        return body, None
    packed = zlib.compress(body, _LEVEL, wbits=_WINDOW_BITS[name])
    return (packed, name) if len(packed) < len(body) else (body, None)


def preferred_encoding(accept_encoding: str) -> str | None:
    """gzip or deflate, by the weights of an Accept-Encoding header (RFC 9110, 12.5.3); None for plain.

    gzip before deflate at equal weight; malformed elements are ignored.
    """
    weights: dict[str, float] = {}
    for element in accept_encoding.split(","):
        match = _CODING.fullmatch(element)
        if match is not None:
            weights[match[1].lower()] = min(float(match[2] or 1), 1.0)
    anything = weights.get("*", 0.0)
    best = max(_WINDOW_BITS, key=lambda name: weights.get(name, anything))
    weight = weights.get(best, anything)
    # Unless named, identity is merely acceptable: the least preferred choice.
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None
