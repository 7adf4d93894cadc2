"""The gateway's application as Ray's proxies call it."""

from collections.abc import MutableMapping
from typing import Any

from serving.http.front import Asgi

REQUEST_ID = b"x-request-id"


class BehindProxy:
    """Leaves the request id to the proxy: it answers with the caller's, or its own, and would add ours to it."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, or the lifespan."""

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name.lower() != REQUEST_ID]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, answer)
