"""HTTP/2 frames (RFC 9113, 6): the constants, and the few frames a server writes."""

import struct
from enum import IntEnum

from serving.http2.errors import ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
HEAD = struct.Struct(">HBBBL")
"""Length (upper 16 bits, lower 8), type, flags, stream."""
STREAM_MASK = 0x7FFFFFFF
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME = 16_384
_WORD = struct.Struct(">L")
_SETTING = struct.Struct(">HL")


class FrameType(IntEnum):
    """Kinds of frames; others are skipped."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


class Flag:
    """Flags, the same bit in all frames that have it. Plain numbers: an `IntFlag` costs a microsecond a frame."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """RFC 9113, 6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def headers(stream: int, block: bytes, *, end: bool) -> bytes:
    """A whole header block, which must fit one frame."""
    flags = Flag.END_HEADERS | Flag.END_STREAM if end else Flag.END_HEADERS
    return frame_head(len(block), FrameType.HEADERS, flags, stream) + block


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """The end of a stream that is not its regular one."""
    return frame_head(4, FrameType.RST_STREAM, 0, stream) + _WORD.pack(code)


def window_update(stream: int, size: int) -> bytes:
    """More bytes may come: on a stream, or with stream 0 on the connection."""
    return frame_head(4, FrameType.WINDOW_UPDATE, 0, stream) + _WORD.pack(size)


def settings(values: dict[Setting, int]) -> bytes:
    """What this side asks the other to respect."""
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return frame_head(len(payload), FrameType.SETTINGS, 0, 0) + payload


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """(name, value) of a SETTINGS payload, in order."""
    return [(name, value) for name, value in _SETTING.iter_unpack(payload)]


SETTINGS_ACK = frame_head(0, FrameType.SETTINGS, Flag.ACK, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A question that wants an answer, or the answer."""
    return frame_head(8, FrameType.PING, Flag.ACK if ack else 0, 0) + payload


def goaway(last_stream: int, code: ErrorCode) -> bytes:
    """Streams above `last_stream` will not be looked at; the client may open them elsewhere."""
    return frame_head(8, FrameType.GOAWAY, 0, 0) + _WORD.pack(last_stream) + _WORD.pack(code)


def read_word(payload: bytes, at: int = 0) -> int:
    """A 32-bit number."""
    return int.from_bytes(payload[at : at + 4])
