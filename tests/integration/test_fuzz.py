"""Random damage to requests: nothing of it is a 500, a crash, or a leak."""

import asyncio
import gzip
import json
import time
from collections import Counter

import numpy as np
import psutil
import pytest

from tests.integration.harness.servers import Server
from tests.integration.harness.wire import BROKEN, Connection, request_bytes, scale_request, tensor

LASTS_S = 12.0
CLIENTS = 8
RSS_MARGIN_BYTES = 150_000_000
DESCRIPTOR_MARGIN = 20

BODIES = [
    json.dumps(scale_request(np.ones((2, 4)), latency_budget_ms=50, prefer="latency")).encode(),
    json.dumps({"id": "a", "inputs": [tensor("a", "FP32", np.ones((1, 3))), tensor("b", "INT64", np.ones((1, 2), int))],
                "outputs": [{"name": "next", "parameters": {"binary_data": True}}]}).encode(),
    json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}]}).encode(),
]  # fmt: skip
MODELS = ["scale", "pair", "text", "free", "padded", "fixed", "lookup", "fashion"]
TOKENS = [
    b"null", b"-1", b"1e999", b"NaN", b"{}", b"[]", b"[[[[", b"]]", b'"', b"\\u0000", b"\\ud800", b"\xff\xfe", b"true",
    b"18446744073709551616", b'"BF16"', b'"BYTES"', b'"FP16"', b'"shape":[9999999999]', b'"binary_data_size":9',
    b'"classification":-1', b'"shared_memory_region":"x"', b'"timeout":1e300', b'"priority":-1', b"\r\n", b"\x00",
]  # fmt: skip
PATHS = [
    "/v2/models/%s/infer", "/v2/models/%s", "/v2/models/%s/versions/%s/infer", "/v2/models/%s/stats", "/%s",
    "/v2/repository/index?%s", "/v2/models/%%00%s/infer", "/v2/models/%s/config", "/v2/models/%s/ready", "/docs?%s",
]  # fmt: skip
HEADERS = [
    ("Inference-Header-Content-Length", ["0", "1", "-1", "99999999999999999999", "x", "10"]),
    ("Content-Encoding", ["gzip", "deflate", "br", "identity", "gzip, gzip"]),
    ("Accept-Encoding", ["gzip;q=2", "*", ";;;", "deflate;q=0"]),
    ("Content-Type", ["text/plain", "application/octet-stream", "multipart/form-data"]),
    ("Latency-Budget-Ms", ["1", "inf", "nan", "-1", "\xff"]),
    ("Variant", ["exact", "nobody", ""]),
    ("X-Request-Id", ["a\tb", "\xe9", "x" * 500]),
    ("Expect", ["100-continue", "nonsense"]),
    ("Upgrade", ["h2c", "websocket"]),
    ("Connection", ["close", "upgrade", "keep-alive, te"]),
    ("Transfer-Encoding", ["chunked", "gzip"]),
]


class Fuzzer:
    """Damaged requests, reproducible by seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def _pick(self, options: list) -> object:
        return options[int(self._rng.integers(len(options)))]

    def request(self) -> bytes:
        """Mostly well-formed HTTP around a damaged body; sometimes the HTTP is damaged, or is none at all."""
        if self._rng.random() < 0.05:
            return self._rng.bytes(int(self._rng.integers(1, 4000)))
        body = self._body()
        path = str(self._pick(PATHS)).replace("%s", str(self._pick(MODELS))).replace("%%", "%")
        headers = {name: str(self._pick(values)) for name, values in HEADERS if self._rng.random() < 0.08}
        method = "POST" if self._rng.random() < 0.9 else str(self._pick(["GET", "PUT", "OPTIONS", "PATCH"]))
        data = request_bytes(method, path, body, headers)
        return self._damaged(data) if self._rng.random() < 0.15 else data

    def _body(self) -> bytes:
        body = bytes(self._pick(BODIES))  # type: ignore[arg-type]
        for _ in range(int(self._rng.integers(0, 4))):
            body = self._damaged(body)
        if self._rng.random() < 0.05:
            body = gzip.compress(body)
        return body

    def _damaged(self, data: bytes) -> bytes:
        at = int(self._rng.integers(len(data) + 1))
        until = min(len(data), at + int(self._rng.integers(0, 30)))
        match int(self._rng.integers(5)):
            case 0:
                return data[:at] + data[until:]
            case 1:
                return data[:at] + bytes(self._pick(TOKENS)) + data[until:]  # type: ignore[arg-type]
            case 2:
                return data[:at] + self._rng.bytes(until - at) + data[until:]
            case 3:
                return data[:at] + data[at:until] * 20 + data[until:]
            case _:
                return data[:at]


async def attack(address: tuple[str, int], seed: int, until_s: float, seen: Counter[int]) -> None:
    fuzzer = Fuzzer(seed)
    while time.monotonic() < until_s:
        connection = await Connection.open(address)
        try:
            for _ in range(20):
                data = fuzzer.request()
                await connection.send(data)
                async with asyncio.timeout(0.25):  # an incomplete request has no answer: hang up instead
                    reply = await connection.reply()
                seen[reply.status] += 1
                if reply.status >= 500 and reply.status not in (501, 503, 504, 505):
                    pytest.fail(f"{reply.status} {reply.body!r} for {data!r}")
                if reply.status >= 400:
                    assert reply.json().keys() == {"error"}, data
                    assert b"Traceback" not in reply.body
        except (*BROKEN, TimeoutError, asyncio.LimitOverrunError):
            seen[0] += 1
        finally:
            connection.abort()


def footprint(server: Server) -> tuple[int, int]:
    process = psutil.Process(server.process.pid)
    return process.memory_info().rss, process.num_fds()


async def test_damaged_requests(inprocess: Server) -> None:
    address = inprocess.host, inprocess.port
    seen: Counter[int] = Counter()
    # What is made once (documentation, threads, arenas) is made before the first look.
    await asyncio.gather(*(attack(address, 1000 + seed, time.monotonic() + 3, seen) for seed in range(CLIENTS)))
    await asyncio.sleep(0.5)
    rss, descriptors = footprint(inprocess)

    seen.clear()
    await asyncio.gather(*(attack(address, seed, time.monotonic() + LASTS_S, seen) for seed in range(CLIENTS)))

    assert sum(seen.values()) > 1000
    assert {200, 400, 404} <= seen.keys()
    assert inprocess.process.poll() is None
    assert inprocess.is_ready()
    assert "Traceback" not in inprocess.log.read_text(encoding="utf-8", errors="replace")
    for _ in range(100):  # closed connections are let go of within a moment
        if footprint(inprocess)[1] <= descriptors + DESCRIPTOR_MARGIN:
            break
        await asyncio.sleep(0.1)
    after = footprint(inprocess)
    assert after[0] < rss + RSS_MARGIN_BYTES
    assert after[1] <= descriptors + DESCRIPTOR_MARGIN
