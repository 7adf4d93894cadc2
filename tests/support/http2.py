"""The other end of an HTTP/2 connection, frame by frame, without sockets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving.http2 import frames
from serving.http2.connection import Connection, House
from serving.http2.errors import ErrorCode
from serving.http2.frames import HEAD, HEAD_BYTES, Flag, FrameType
from serving.http2.hpack import Field, HeaderReader, write_fields
from serving.http2.huffman import HuffmanReader
from serving.http2.limits import Http2Limits
from serving.http2.stream import Stream
from serving.testing import ManualClock


@dataclass(frozen=True)
class Frame:
    """One frame as it was sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    def word(self, at: int = 0) -> int:
        """A number of the payload."""
        return frames.read_word(self.payload, at)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return frames.frame_head(len(payload), kind, flags, stream) + payload


def read_frames(data: bytes) -> list[Frame]:
    """All frames of `data`, which must end with one."""
    found = []
    at = 0
    while at < len(data):
        high, low, kind, flags, stream = HEAD.unpack_from(data, at)
        end = at + HEAD_BYTES + (high << 8 | low)
        found.append(Frame(kind, flags, stream, data[at + HEAD_BYTES : end]))
        assert len(found[-1].payload) == high << 8 | low
        at = end
    return found


class FakeTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False
        self.aborted = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class RecordedStream(Stream):
    """Notes what it is told."""

    __slots__ = ("ended", "gone", "head", "received", "swept")

    def __init__(self, connection: Connection, number: int, head: Any) -> None:
        super().__init__(connection, number)
        self.head = head
        self.received = b""
        self.ended = self.gone = False

    def begin(self) -> None:
        pass

    def receive(self, data: bytes, *, ended: bool) -> None:
        self.received += data
        self.ended = ended
        self.credit()

    def lost(self) -> None:
        self.gone = True

    def sweep(self, now_s: float) -> None:
        pass


class Client:
    """Feeds one connection and reads its answers. Make it inside a running event loop."""

    def __init__(self, limits: Http2Limits | None = None, *, greet: bool = True) -> None:
        self.clock = ManualClock(1000.0)
        self.streams: dict[int, RecordedStream] = {}
        self.lost = 0
        self.house = House(limits or Http2Limits(), self.clock, list, self._accept, self._lost)
        self.transport = FakeTransport()
        self.connection = Connection(self.house)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        if greet:
            self.send(frames.PREFACE + frames.settings({}))

    def send(self, data: bytes) -> None:
        """Bytes arrive."""
        self.connection.data_received(data)

    def headers(self, stream: int, fields: Sequence[Field] = ((b"a", b"b"),), *, end: bool = False) -> None:
        """Open a stream."""
        flags = Flag.END_HEADERS | (Flag.END_STREAM if end else 0)
        self.send(frame(FrameType.HEADERS, flags, stream, write_fields(fields)))

    def data(self, stream: int, payload: bytes, *, end: bool = False) -> None:
        """Send on a stream."""
        self.send(frame(FrameType.DATA, Flag.END_STREAM if end else 0, stream, payload))

    def answers(self) -> list[Frame]:
        """What was written since the last look."""
        if not self.transport.closed:
            self.connection._outbox.flush()
        found = read_frames(bytes(self.transport.written))
        self.transport.written.clear()
        return found

    def kinds(self) -> list[int]:
        """The kinds of those frames."""
        return [found.kind for found in self.answers()]

    def failed_with(self) -> ErrorCode:
        """The code the connection was ended with."""
        last = self.answers()[-1]
        assert last.kind == FrameType.GOAWAY
        assert self.transport.closed
        return ErrorCode(last.word(4))

    def _accept(self, connection: Connection, number: int, head: Any) -> Stream:
        self.streams[number] = RecordedStream(connection, number, head)
        return self.streams[number]

    def _lost(self) -> None:
        self.lost += 1


def fields_of(block: bytes) -> list[Field]:
    """The fields of a header block that needs no table."""
    return HeaderReader(list, HuffmanReader(), max_bytes=1 << 20, max_fields=1000).read(block)
