"""The ASGI applications of the two ports."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from serving.core.errors import Unauthenticated
from serving.http.errors import error_body
from serving.http.infer import InferRoute, is_inference
from serving.keys import ApiKeys, presented
from serving.metrics import Metrics

OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What probes ask, who have no key."""

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class Front:
    """The API: inference on its own short way, everything else through FastAPI; both behind the keys, if there are."""

    def __init__(self, infer: InferRoute, pages: Asgi, keys: ApiKeys | None = None) -> None:
        self._infer = infer
        self._pages = pages
        self._keys = keys

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Route one request."""
        if self._keys is not None and scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._keys.check(presented(scope["headers"]))
            except Unauthenticated as error:
                await self._infer.refuse(error, scope, send)
                return
        if is_inference(scope):
            await self._infer(scope, receive, send)
        else:
            await self._pages(scope, receive, send)


class MetricsPage:
    """GET /metrics, for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer with the node's page."""
        if scope["type"] != "http":
            return
        status = 200
        if scope["path"] != "/metrics":
            status, kind, body = 404, "application/json", error_body("the only path here is /metrics")
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, "application/json", error_body("method not allowed on this path")
        else:
            self._metrics.flush()
            accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
            body, kind = await asyncio.to_thread(self._metrics.page, accept)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
