"""One request and its response, as the ASGI application meets them."""

import asyncio
from collections.abc import Callable
from typing import Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.http.refusal import Refusal

ON_DISCONNECT_KEY: Final = "gearshift.on_disconnect"
"""Key of the ASGI scope where an application may leave a callable: it is called if the client goes away before
the response is complete. (Waiting for that with `receive` would cost every request a task of its own.)"""


class GentleTransport:
    """The transport as a cycle sees it: it writes as usual, but closing must not destroy the answer."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


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
