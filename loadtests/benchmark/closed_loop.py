"""Load without `wrk`: asyncio streams with keep-alive, each connection in a closed loop.

Slower than `wrk` by several times, and it shares the cores with the server: good for ratios between slow
servers and for machines without `wrk`. A result says which generator made it.
"""

import asyncio
import collections
import time
from urllib.parse import urlsplit

from loadtests.benchmark.load import LoadResult, merge_errors, percentile
from loadtests.benchmark.wire import Payload

_RETRY_S = 0.05  # a refused connection is tried again, but not in a spin


class _ReadError(Exception):
    """The answer was cut short, or is not what this small client reads."""


class _Tally:
    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()


class ClosedLoopLoad:
    """The bundled generator, with the interface of `WrkLoad`."""

    name = "asyncio"

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def run(self, url: str, payload: Payload, connections: int, duration_s: float) -> LoadResult:
        """Load `url` for `duration_s` over `connections`."""
        return asyncio.run(closed_loop(url, payload, connections, duration_s, self._timeout_s))


async def closed_loop(url: str, payload: Payload, connections: int, duration_s: float, timeout_s: float) -> LoadResult:
    """Send `payload` over and over on each connection; what is unanswered at the end is not counted."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    request = _request_bytes(parts.path or "/", f"{host}:{port}", payload)
    tally = _Tally()
    started_s = time.monotonic()
    callers = [asyncio.create_task(_call_forever(host, port, request, timeout_s, tally)) for _ in range(connections)]
    try:
        done, _ = await asyncio.wait(callers, timeout=duration_s)
        elapsed_s = time.monotonic() - started_s
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    for caller in done:  # a caller only ends by an error of our own: never swallow it
        caller.result()
    latencies_s = sorted(tally.latencies_s)
    return LoadResult(
        requests=len(latencies_s),
        seconds=elapsed_s,
        p50_s=percentile(latencies_s, 0.50),
        p99_s=percentile(latencies_s, 0.99),
        errors=merge_errors(tally.errors),
    )


async def _call_forever(host: str, port: int, request: bytes, timeout_s: float, tally: _Tally) -> None:
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            tally.errors["connect"] += 1
            await asyncio.sleep(_RETRY_S)
            continue
        try:
            await _use_connection(reader, writer, request, timeout_s, tally)
        finally:
            writer.close()


async def _use_connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, timeout_s: float, tally: _Tally
) -> None:
    """Send on this connection until the server closes it or an error ends it."""
    while True:
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(request)
                status, keep_alive = await _read_answer(reader)
        except TimeoutError:
            tally.errors["timeout"] += 1
            return
        except (OSError, _ReadError):
            tally.errors["read"] += 1
            await asyncio.sleep(_RETRY_S)
            return
        tally.latencies_s.append(time.monotonic() - started_s)
        if not 200 <= status < 400:
            tally.errors["status"] += 1
        if not keep_alive:
            return


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Return status and keep-alive of the next answer, its body read and dropped."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head[:-4].split(b"\r\n")
        status = int(status_line.split(b" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        await reader.readexactly(int(headers[b"content-length"]))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError, KeyError) as error:
        raise _ReadError from error
    return status, headers.get(b"connection", b"").lower() != b"close"


def _request_bytes(path: str, host: str, payload: Payload) -> bytes:
    headers = {"Host": host, **payload.headers, "Content-Length": str(len(payload.body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + payload.body
