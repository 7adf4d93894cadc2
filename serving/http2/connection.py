"""One HTTP/2 connection of a client, as a protocol of asyncio."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from serving.http2 import frames
from serving.http2.errors import ConnectionFault, ErrorCode
from serving.http2.frames import HEAD, HEAD_BYTES, MAX_WINDOW, Flag, FrameType, Setting, read_word
from serving.http2.hpack import Field, HeaderReader, HeadersTooLarge, HpackError
from serving.http2.huffman import HuffmanReader
from serving.http2.limits import Http2Limits
from serving.http2.outbox import Outbox
from serving.http2.stream import STREAM_WINDOW, Stream

CONNECTION_WINDOW = 8 * 1024 * 1024
"""Bytes a client may send on all streams together before this side has looked at them."""
MAX_FRAME = 65_536
"""Longest frame a client may send: long ones spare work with large tensors."""
LEAVE_S = 1.0
"""How long a client that was told to go has to answer the ping that comes with it."""
_LEAVE = b"leaving."
_ALIVE = b"alive?.."
_NOT_HTTP2 = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"this port speaks gRPC (HTTP/2 without upgrade); the REST API has a port of its own\n"
)

log = logging.getLogger("gearshift.http2")


@dataclass(slots=True, eq=False)
class House:
    """What the connections of one server share."""

    limits: Http2Limits
    clock: Callable[[], float]
    read_head: Callable[[Sequence[Field]], Any]
    """Header fields -> what `accept` is told of a call. Kept by the connection where the same is sent again."""
    accept: Callable[["Connection", int, Any], Stream]
    """A call begins: (connection, number of the stream, its head)."""
    connection_lost: Callable[[], None]
    huffman: HuffmanReader = field(default_factory=HuffmanReader)
    connections: "set[Connection]" = field(default_factory=set)


class Connection(asyncio.Protocol):
    """Reads frames, keeps both sides' windows, and writes once a turn of the event loop whatever has gathered.

    Nothing is remembered of streams that have ended, and a client's resets need no bound of their own: a call
    that is taken back costs no more than one that is answered, and its work is cancelled at once.
    """

    def __init__(self, house: House) -> None:
        self.house = house
        self.limits = house.limits
        self.clock = house.clock
        self.streams: dict[int, Stream] = {}
        self.peer_window = frames.DEFAULT_WINDOW
        """Window of a new stream, as the client has set it."""
        self.unfinished_bytes = 0
        """Bytes of messages that are not complete yet."""
        self.heard_s = self.clock()
        """When the last bytes arrived."""
        self._opened_s = self.heard_s
        # Spread, so that clients who came together do not all leave together.
        self._leave_at_s = self._opened_s + self.limits.max_age_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        self._reader: HeaderReader[Any] = HeaderReader(
            house.read_head,
            house.huffman,
            max_bytes=self.limits.max_header_bytes,
            max_fields=self.limits.max_headers,
        )
        self._transport: asyncio.Transport | None = None
        self._preface = True
        self._settled = False
        self._rest = b""
        self._block: bytearray | None = None
        self._block_stream = 0
        self._block_flags = 0
        self._block_since_s = 0.0
        self._last = 0
        self._last_taken: int | None = None
        self._leave_by_s: float | None = None
        self._pinged_s: float | None = None
        self._choked_since_s: float | None = None
        self._receive_left = CONNECTION_WINDOW
        self._outbox = Outbox(self.clock)
        self._closed = False
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.RST_STREAM: self._on_reset,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_push,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window,
            FrameType.CONTINUATION: self._on_continuation,
        }

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._outbox.open(self._transport)
        self.house.connections.add(self)

    def _greet(self) -> None:
        """What this side allows. Not before the client has shown that it speaks HTTP/2."""
        ours = {
            Setting.MAX_CONCURRENT_STREAMS: self.limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_FRAME_SIZE: MAX_FRAME,
            Setting.MAX_HEADER_LIST_SIZE: self.limits.max_header_bytes,
        }
        self.write(frames.settings(ours))
        self.write(frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was, the calls are gone
        """See `asyncio.Protocol`."""
        self._closed = True
        self.house.connections.discard(self)
        gone, self.streams = self.streams, {}
        self._outbox.close()
        for stream in gone.values():
            stream.local_done = True
            stream.wake()
            stream.lost()
        self.house.connection_lost()

    def pause_writing(self) -> None:
        """The client does not read: neither do we, as whatever it asks would only add to the pile."""
        self._choked_since_s = self.clock()
        if self._transport is not None and not self._closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._choked_since_s = None
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._closed:
            return
        self.heard_s = self.clock()
        self._pinged_s = None
        if self._rest:
            data = self._rest + data
        try:
            self._rest = self._read(data)
        except ConnectionFault as fault:
            log.debug("a client broke HTTP/2: %s", fault)
            self._fail(fault.code)

    def _read(self, data: bytes) -> bytes:
        """Handle all whole frames; returns what is left."""
        at = 0
        if self._preface:
            if len(data) < len(frames.PREFACE) and frames.PREFACE.startswith(data):
                return data
            if not data.startswith(frames.PREFACE):
                self._turn_away()
                return b""
            at = len(frames.PREFACE)
            self._preface = False
            self._greet()
        end = len(data)
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, number = HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > MAX_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame longer than allowed")
            begin = at + HEAD_BYTES
            stop = begin + length
            if stop > end:
                break
            at = stop
            if self._block is not None and kind != FrameType.CONTINUATION:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "another frame inside a header block")
            if not self._settled and kind != FrameType.SETTINGS:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no SETTINGS first")
            handler = self._handlers.get(kind)
            if handler is not None:
                handler(flags, number & frames.STREAM_MASK, data[begin:stop])
                if self._closed:
                    return b""
        return data[at:]

    def _turn_away(self) -> None:
        """Somebody speaks HTTP/1.1, or nothing known, on this port."""
        if self._transport is not None:
            self._transport.write(_NOT_HTTP2)
            self._transport.close()
        self._closed = True

    # Frames.

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_left -= size
        if self._receive_left < CONNECTION_WINDOW // 2:
            if self._receive_left < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than allowed")
            self.write(frames.window_update(0, CONNECTION_WINDOW - self._receive_left))
            self._receive_left = CONNECTION_WINDOW
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last or not number:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "data of a stream that was never opened")
            return  # on its way while the call ended here
        if stream.remote_done:
            self.reset(stream, ErrorCode.STREAM_CLOSED)
            stream.lost()
            return
        if flags & Flag.PADDED:
            payload = _unpadded(payload)
        stream.receive_left -= size
        if stream.receive_left < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data on a stream than allowed")
        ended = bool(flags & Flag.END_STREAM)
        stream.remote_done = ended
        stream.receive(payload, ended=ended)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & Flag.PADDED:
            payload = _unpadded(payload)
        if flags & Flag.PRIORITY:
            payload = payload[5:]
        if not number % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers on a stream that is not a client's")
        if flags & Flag.END_HEADERS:
            self._open(flags, number, payload)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(payload), number, flags
            self._block_since_s = self.heard_s

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or number != self._block_stream or not (payload or flags & Flag.END_HEADERS):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        self._block += payload
        if len(self._block) > self.limits.max_header_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block longer than allowed")
        if flags & Flag.END_HEADERS:
            block, self._block = bytes(self._block), None
            self._open(self._block_flags, number, block)

    def _open(self, flags: int, number: int, block: bytes) -> None:
        """A call begins; or trailers of one, which gRPC's clients do not send."""
        head = None
        try:
            head = self._reader.read(block)
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        except HeadersTooLarge:
            pass
        ended = bool(flags & Flag.END_STREAM)
        stream = self.streams.get(number)
        if stream is not None:
            if stream.remote_done or not ended:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers twice")
            stream.remote_done = True
            stream.receive(b"", ended=True)
            return
        if number <= self._last or (self._last_taken is not None and number > self._last_taken):
            return  # of a call that has ended here, or that the client will open elsewhere
        self._last = number
        if head is None:
            self.write(frames.rst_stream(number, ErrorCode.ENHANCE_YOUR_CALM))
        elif len(self.streams) >= self.limits.max_streams:
            self.write(frames.rst_stream(number, ErrorCode.REFUSED_STREAM))
        else:
            stream = self.streams[number] = self.house.accept(self, number, head)
            stream.begin()
            if ended:
                stream.remote_done = True
                stream.receive(b"", ended=True)

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:  # noqa: ARG002
        if len(payload) != 4 or not number or number > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a reset of nothing")
        stream = self.streams.get(number)
        if stream is not None:
            self._forget(stream)
            stream.lost()

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & Flag.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "malformed SETTINGS")
        if not self._settled:
            self._settled = True
            if self._leave_by_s is not None:
                self._announce()
        if flags & Flag.ACK:
            return
        for name, value in frames.read_settings(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "an initial window beyond 2^31")
                for stream in self.streams.values():
                    stream.send_window += value - self.peer_window
                self.peer_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME <= value < 1 << 24:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame size out of range")
                self._outbox.longest_frame = value
        self.write(frames.SETTINGS_ACK)
        self._pump()

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:  # noqa: ARG002
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients do not push")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "malformed PING")
        if not flags & Flag.ACK:
            self.write(frames.ping(payload, ack=True))
        elif payload == _LEAVE:
            self._stop_taking()

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:  # noqa: ARG002
        """The client opens no more calls; those it has open go on."""
        self._stop_taking()

    def _on_window(self, flags: int, number: int, payload: bytes) -> None:  # noqa: ARG002
        size = read_word(payload) & frames.STREAM_MASK
        if len(payload) != 4 or not size:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "malformed WINDOW_UPDATE")
        if not number:
            self._outbox.window += size
            if self._outbox.window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31")
        elif (stream := self.streams.get(number)) is not None:
            stream.send_window += size
            if stream.send_window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31")
        self._pump()

    # Sending.

    def write(self, *parts: bytes | memoryview) -> None:
        """Send these bytes with all others of this turn of the event loop."""
        self._outbox.write(*parts)

    def send(self, stream: Stream, head: bytes, data: bytes, tail: bytes | None) -> None:
        """See `Stream.send`."""
        if self._outbox.send(stream, head, data, tail):
            self._finish(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream at once, in both directions."""
        if stream.number in self.streams:
            self.write(frames.rst_stream(stream.number, code))
            self._forget(stream)

    def _pump(self) -> None:
        for stream in self._outbox.pump():
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """All was sent. A client that still sends is told to stop."""
        if not stream.remote_done:
            self.write(frames.rst_stream(stream.number, ErrorCode.NO_ERROR))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.local_done = True
        stream.queue.clear()
        stream.wake()
        self.streams.pop(stream.number, None)
        self._outbox.forget(stream)
        if self._last_taken is not None:
            self._close_if_done()

    # The end.

    def leave(self) -> None:
        """Tell the client to go elsewhere with new calls, in two steps, so that none of those under way is lost."""
        if self._leave_by_s is None and not self._closed:
            self._leave_by_s = self.clock() + LEAVE_S
            if self._settled:
                self._announce()

    def _announce(self) -> None:
        """First step. Calls that were on their way come before the answer to the ping."""
        self.write(frames.goaway(frames.STREAM_MASK, ErrorCode.NO_ERROR), frames.ping(_LEAVE, ack=False))

    def _stop_taking(self) -> None:
        if self._last_taken is None:
            self._last_taken = self._last
            self.write(frames.goaway(self._last, ErrorCode.NO_ERROR))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self.streams and self._transport is not None and not self._closed:
            self._outbox.flush()
            self._closed = True
            self._transport.close()

    def _fail(self, code: ErrorCode) -> None:
        """The client broke the protocol: say so, and end."""
        self.write(frames.goaway(self._last, code))
        self._outbox.flush()
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut it now."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, now_s: float) -> None:
        """Look after timeouts."""
        limits = self.limits
        silent_s = now_s - self.heard_s
        if (
            (not self._settled and now_s - self._opened_s > limits.header_timeout_s)
            or (self._block is not None and now_s - self._block_since_s > limits.header_timeout_s)
            or (self._choked_since_s is not None and now_s - self._choked_since_s > limits.write_timeout_s)
            or (self._pinged_s is not None and now_s - self._pinged_s > limits.write_timeout_s)
            or (self._closed and silent_s > limits.write_timeout_s)
        ):
            self.abort()
            return
        for stream in list(self.streams.values()):
            if stream.queue and now_s - stream.blocked_since_s > limits.write_timeout_s:
                self.reset(stream, ErrorCode.CANCEL)
                stream.lost()
            else:
                stream.sweep(now_s)
        if self._leave_by_s is not None:
            if now_s > self._leave_by_s:
                self._stop_taking()
        elif now_s > self._leave_at_s or (not self.streams and silent_s > limits.idle_s):
            self.leave()
        elif silent_s > limits.idle_s and self._pinged_s is None:
            self._pinged_s = now_s
            self.write(frames.ping(_ALIVE, ack=False))


def _unpadded(payload: bytes) -> bytes:
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - padding]
