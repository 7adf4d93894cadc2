"""What a connection sends: gathered for one write a turn of the event loop, data only as the client allows."""

import asyncio

from serving.http2 import frames
from serving.http2.frames import Flag, FrameType
from serving.http2.stream import Stream
from serving.ports import Clock


class Outbox:
    """The sending half of a connection. Make it inside the running event loop."""

    def __init__(self, clock: Clock) -> None:
        self.window = frames.DEFAULT_WINDOW
        """Bytes of data the client takes on all streams together."""
        self.longest_frame = frames.DEFAULT_FRAME
        """Longest payload the client takes."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._gathered: list[bytes | memoryview] = []
        self._flush_due = False
        self._blocked: dict[int, Stream] = {}

    def open(self, transport: asyncio.Transport) -> None:
        """Where everything goes."""
        self._transport = transport

    def close(self) -> None:
        """Nothing can be sent any more."""
        self._transport = None
        self._blocked.clear()

    def write(self, *parts: bytes | memoryview) -> None:
        """Send these bytes with all others of this turn of the event loop."""
        self._gathered += parts
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what was gathered."""
        self._flush_due = False
        if self._gathered and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._gathered))
        self._gathered.clear()

    def send(self, stream: Stream, head: bytes, data: bytes, tail: bytes | None) -> bool:
        """See `Stream.send`. Returns whether that was the stream's last, and all of it is on its way."""
        number = stream.number
        size = len(data)
        if stream.queue or size > self.window or size > stream.send_window or size > self.longest_frame:
            if head:
                self.write(frames.headers(number, head, end=False))
            if data:
                stream.queue.append(memoryview(data))
            stream.tail = tail
            return self._drive(stream)
        parts = []
        if head:
            parts.append(frames.headers(number, head, end=tail is not None and not tail and not data))
        if data:
            self.window -= size
            stream.send_window -= size
            parts += (frames.frame_head(size, FrameType.DATA, _last_flag(tail), number), data)
        if tail:
            parts.append(frames.headers(number, tail, end=True))
        self.write(*parts)
        return tail is not None

    def pump(self) -> list[Stream]:
        """The client allows more: send it. Returns the streams that have ended with it."""
        return [stream for stream in list(self._blocked.values()) if self._drive(stream)]

    def forget(self, stream: Stream) -> None:
        """The stream is over."""
        self._blocked.pop(stream.number, None)

    def _drive(self, stream: Stream) -> bool:
        """Send of a stream's queue what the client allows; returns whether the stream has ended."""
        while stream.queue:
            chunk = stream.queue[0]
            size = min(len(chunk), self.window, stream.send_window, self.longest_frame)
            if size <= 0:
                if stream.number not in self._blocked:
                    stream.blocked_since_s = self._clock()
                    self._blocked[stream.number] = stream
                return False
            last = size == len(chunk) and len(stream.queue) == 1
            flags = _last_flag(stream.tail) if last else 0
            self.write(frames.frame_head(size, FrameType.DATA, flags, stream.number), chunk[:size])
            self.window -= size
            stream.send_window -= size
            stream.blocked_since_s = self._clock()
            if size == len(chunk):
                stream.queue.popleft()
            else:
                stream.queue[0] = chunk[size:]
        self._blocked.pop(stream.number, None)
        stream.wake()
        if stream.tail:
            self.write(frames.headers(stream.number, stream.tail, end=True))
        return stream.tail is not None


def _last_flag(tail: bytes | None) -> int:
    """Of the last data: the stream ends with it where no header block follows."""
    return Flag.END_STREAM if tail is not None and not tail else 0
