"""A small HTTP/1.1 client for load: asyncio, no pool, no retry, so that every request has one visible end."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

HANG_S = 60.0
"""No answer in this time is a hang: far longer than anything a correct server does in these tests."""

BROKEN = (ConnectionError, asyncio.IncompleteReadError)
"""What a request ends with when the connection ends before its answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int]) -> "Connection":
        """Connect. Raises `ConnectionError`."""
        async with asyncio.timeout(HANG_S):
            return cls(*await asyncio.open_connection(*address))

    async def call(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request and read its answer. Raises one of `BROKEN`, or `TimeoutError` for a hang."""
        await self.send(request_bytes(method, path, body, headers))
        return await self.reply()

    async def infer(self, model: str, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
        """One inference request in JSON."""
        return await self.call("POST", f"/v2/models/{model}/infer", json.dumps(document).encode(), headers)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        async with asyncio.timeout(HANG_S):
            await self._writer.drain()

    async def reply(self) -> Reply:
        """Read one answer with a Content-Length."""
        async with asyncio.timeout(HANG_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(head[0].split()[1]), headers, body)

    @property
    def ended(self) -> bool:
        """Whether the server has closed it."""
        return self._reader.at_eof()

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(HANG_S):
            return await self._reader.read()

    async def close(self) -> None:
        """Close, and do not mind if the other side was faster."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return

    def abort(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Connection]:
    """A connection that is closed at the end of the block."""
    connection = await Connection.open(address)
    try:
        yield connection
    finally:
        await connection.close()


def request_bytes(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def tensor(name: str, datatype: str, array: np.ndarray | Sequence[Any]) -> dict[str, Any]:
    """One input of a request, as JSON has it."""
    values = np.asarray(array)
    return {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.ravel().tolist()}


def scale_request(rows: np.ndarray, **parameters: Any) -> dict[str, Any]:
    """A request to the model `scale`."""
    return {"inputs": [tensor("x", "FP32", rows)], "parameters": parameters}


def outputs_of(document: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The outputs of an answer in JSON, by name."""
    return {entry["name"]: np.array(entry["data"]).reshape(entry["shape"]) for entry in document["outputs"]}
