"""One request and its response, as the ASGI application meets them."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.http.refusal import Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

ON_DISCONNECT_KEY: Final = "gearshift.on_disconnect"
"""Key of the ASGI scope where an application may leave a callable: it is called if the client goes away before
the response is complete. (Waiting for that with `receive` would cost every request a task of its own.)"""


class GentleTransport:
    """The transport as a cycle sees it: a head waits for its body, and closing must not destroy the answer."""

    __slots__ = ("_close", "_corked", "_head", "_write", "is_closing")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._write = transport.write
        self._close = close
        self._corked = False
        self._head = b""
        self.is_closing = transport.is_closing

    def cork(self) -> None:
        """Hold back the next write until the one after it: one system call and one packet instead of two."""
        self._corked = True

    def write(self, data: bytes) -> None:
        """Send, together with what was held back."""
        if self._corked:
            self._corked = False
            self._head += data
        elif self._head:
            data, self._head = self._head + data, b""
            self._write(data)
        else:
            self._write(data)

    def close(self) -> None:
        """Send what was held back, then close."""
        if self._head:
            self.write(b"")
        self._close()


class GuardedCycle(RequestResponseCycle):
    """uvicorn's cycle, which also knows what the client wants and fails in JSON."""

    wants_keep_alive: bool
    """Whether the client allows another request on this connection."""

    def disconnect(self) -> None:
        """Tell the application that nobody listens any more."""
        self.disconnected = True
        self.message_event.set()
        callback = self.scope.get(ON_DISCONNECT_KEY)
        if callable(callback):
            callback()

    async def send(self, message: "ASGISendEvent") -> None:
        """Send one ASGI message; the head of a response goes out with the first piece of its body."""
        if message["type"] == "http.response.start" and self.scope["method"] != "HEAD":  # which gets no body
            cast("GentleTransport", self.transport).cork()
        await super().send(message)

    async def send_500_response(self) -> None:
        """Answer for an application that failed, in the shape of every other error."""
        body = Refusal(500, "internal error").body
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})
