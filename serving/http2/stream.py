"""One stream of a connection: what both sides may still send on it."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from serving.http2.errors import ErrorCode
from serving.http2.frames import window_update

if TYPE_CHECKING:
    from serving.http2.connection import Connection

STREAM_WINDOW = 1024 * 1024
"""Bytes a client may send on one stream before this side has looked at them."""


class Stream:
    """What a protocol above builds its calls from: it is told what arrives, and sends through the connection."""

    __slots__ = (
        "blocked_since_s",
        "connection",
        "flushed",
        "local_done",
        "number",
        "queue",
        "receive_left",
        "remote_done",
        "send_window",
        "tail",
    )

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection = connection
        self.number = number
        self.send_window = connection.peer_window
        self.receive_left = STREAM_WINDOW
        self.remote_done = False
        """Whether the client has sent all it will."""
        self.local_done = False
        """Whether all was sent to the client, or nothing more will be."""
        self.queue: deque[memoryview] = deque()
        """What waits for the client's permission."""
        self.tail: bytes | None = None
        """Header block that follows the queue."""
        self.blocked_since_s = 0.0
        self.flushed: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """The stream is open: from now on it may send."""
        raise NotImplementedError

    def receive(self, data: bytes, *, ended: bool) -> None:
        """Bytes of the client; `ended` with its last."""
        raise NotImplementedError

    def lost(self) -> None:
        """The client gave the stream up, or its connection is gone."""
        raise NotImplementedError

    def sweep(self, now_s: float) -> None:
        """Look after timeouts."""
        raise NotImplementedError

    def credit(self) -> None:
        """What has arrived is taken: the client may send as much again."""
        if self.receive_left < STREAM_WINDOW // 2 and not self.remote_done and not self.local_done:
            self.connection.write(window_update(self.number, STREAM_WINDOW - self.receive_left))
            self.receive_left = STREAM_WINDOW

    def send(self, head: bytes, data: bytes, tail: bytes | None) -> None:
        """Header block, data and last header block, each may be empty; `tail` None: the stream goes on."""
        if not self.local_done:
            self.connection.send(self, head, data, tail)

    def reset(self, code: ErrorCode) -> None:
        """End the stream at once, in both directions."""
        self.connection.reset(self, code)

    async def drained(self) -> None:
        """Return when the client has let everything be sent."""
        if self.queue and not self.local_done:
            if self.flushed is None:
                self.flushed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self.flushed)

    def wake(self) -> None:
        """Nothing waits to be sent any more, or never will be sent."""
        if self.flushed is not None and not self.flushed.done():
            self.flushed.set_result(None)
        self.flushed = None
