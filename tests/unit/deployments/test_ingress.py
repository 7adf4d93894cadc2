"""What Ray's proxies are told of an answer."""

from typing import Any

from deployments.ingress import BehindProxy


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        return
    headers = [(b"content-type", b"text/plain"), (b"X-Request-Id", b"ours"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": b"x-request-id"})


async def messages(kind: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await BehindProxy(app)({"type": kind}, None, send)
    return told


async def test_all_but_the_request_id_passes() -> None:
    start, body = await messages("http")
    assert start["status"] == 429
    assert start["headers"] == [(b"content-type", b"text/plain"), (b"retry-after", b"1")]
    assert body == {"type": "http.response.body", "body": b"x-request-id"}


async def test_the_lifespan_passes() -> None:
    assert await messages("lifespan") == [{"type": "lifespan.startup.complete"}]
