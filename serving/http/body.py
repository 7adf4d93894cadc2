"""The body of a request that is no inference: small, read whole."""

from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.core.errors import Cancelled, PayloadTooLarge


async def read_body(request: Request, limit: int) -> bytes:
    """All of it. Raises `PayloadTooLarge` above `limit` bytes, `Cancelled` when the caller left before its end."""
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes")
    except ClientDisconnect:
        raise Cancelled("the caller went away before the end of the body") from None
    return bytes(content)
