"""Whatever is wrong, on whichever path: a fixed status, `{"error": text}`, and a server that goes on serving."""

import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest

from serving.config import LimitSettings
from tests.integration.harness.servers import Server
from tests.integration.harness.wire import Connection, Reply, connected, request_bytes, scale_request, tensor

GOOD = json.dumps(scale_request(np.ones((1, 4)))).encode()
INFER = "/v2/models/scale/infer"


def error_of(reply: Reply | httpx.Response, status: int) -> str:
    """The text of an error that has the right status and form."""
    content = reply.body if isinstance(reply, Reply) else reply.content
    assert (reply.status if isinstance(reply, Reply) else reply.status_code) == status, content
    assert reply.headers["content-type"] == "application/json"
    document = json.loads(content)
    assert document.keys() == {"error"}
    text: str = document["error"]
    assert text
    for secret in ("Traceback", "/home", "/usr", "site-packages", ".py", "onnxruntime"):
        assert secret not in text
    return text


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/", 404, "no such path: /"),
        ("GET", "/v2/nothing", 404, "no such path: /v2/nothing"),
        ("POST", "/v2/models/scale/infer/more", 404, "no such path"),
        ("GET", "/v2/models/scale/versions", 404, "no such path"),
        ("GET", INFER, 405, "method not allowed"),
        ("DELETE", "/v2/models/scale", 405, "method not allowed"),
        ("POST", "/v2/health/live", 405, "method not allowed"),
        ("PUT", "/v2", 405, "method not allowed"),
        ("POST", "/v2/models/../scale/infer", 404, "unknown model|no such path"),
        ("POST", "/v2/models/..%2f..%2fetc%2fpasswd/infer", 404, "unknown model|no such path"),
        ("POST", "/v2/models//infer", 404, "Request for unknown model: ''"),
    ],
)
async def test_wrong_paths_and_methods(server: Server, method: str, path: str, status: int, text: str) -> None:
    async with connected((server.host, server.port)) as connection:
        told = error_of(await connection.call(method, path, GOOD if method == "POST" else b""), status)
        assert any(option in told for option in text.split("|")), told


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b"", ("request body",)),
        (b"{", ("request body",)),
        (b"[]", ("request body",)),
        (b"null", ("request body",)),
        (b"\xff\xfe", ("request body",)),
        (b'{"inputs": []}', ("missing required input(s) ['x']",)),
        (b'{"inputs": 3}', ("inputs",)),
        (b"[" * 100_000, ("request body",)),
        (json.dumps({"inputs": [tensor("x", "FP32", np.ones((1, 5)))]}).encode(), ("'x'", "[1,5]", "[-1,4]")),
        (json.dumps({"inputs": [tensor("x", "FP32", np.ones((0, 4)))]}).encode(), ("1 to 256 rows", "got 0")),
        (json.dumps({"inputs": [tensor("x", "FP64", np.ones((1, 4)))]}).encode(), ("'x'", "FP64", "FP32")),
        (json.dumps({"inputs": [tensor("z", "FP32", np.ones((1, 4)))]}).encode(), ("unexpected inference input 'z'",)),
        (GOOD.replace(b"1.0", b"null", 1), ("'x'",)),
        (GOOD.replace(b"1.0", b'"1.0"', 1), ("'x'",)),
        (GOOD.replace(b"1.0", b"true", 1), ("'x'",)),
        (GOOD.replace(b"1.0", b"1e300", 1), ("'x'",)),
        (GOOD.replace(b"1.0, ", b"", 1), ("'x'",)),
        (GOOD.replace(b"[1, 4]", b"[4294967296, 4294967296]"), ("'x'",)),
        (GOOD.replace(b"[1, 4]", b"[1, -4]"), ("'x'",)),
    ],
)
async def test_bodies_that_do_not_fit(server: Server, body: bytes, texts: tuple[str, ...]) -> None:
    async with connected((server.host, server.port)) as connection:
        told = error_of(await connection.call("POST", INFER, body), 400)
        for text in texts:
            assert text in told
        reply = await connection.call("POST", INFER, GOOD)
        assert reply.status == 200, "the connection is good for the next request"


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Content-Encoding": "br"}, 415, "gzip, deflate"),
        ({"Content-Encoding": "gzip"}, 400, "not a valid gzip stream"),
        ({"Inference-Header-Content-Length": "many"}, 400, "inference-header-content-length"),
        ({"Inference-Header-Content-Length": "99999"}, 400, "Inference-Header-Content-Length"),
        ({"Inference-Header-Content-Length": "10"}, 400, "request body"),
        ({"Latency-Budget-Ms": "soon"}, 400, "latency_budget_ms"),
    ],
)
async def test_headers_that_do_not_fit(server: Server, headers: dict[str, str], status: int, text: str) -> None:
    async with connected((server.host, server.port)) as connection:
        assert text in error_of(await connection.call("POST", INFER, GOOD, headers), status)


async def test_too_much_is_413(inprocess: Server) -> None:
    limits = LimitSettings()
    address = inprocess.host, inprocess.port
    async with connected(address) as connection:  # announced: refused before the body is sent
        await connection.send(
            f"POST {INFER} HTTP/1.1\r\nHost: test\r\nContent-Length: {limits.max_binary_bytes + 1}\r\n\r\n".encode()
        )
        assert str(limits.max_binary_bytes) in error_of(await connection.reply(), 413)
    async with connected(address) as connection:
        body = b" " * (limits.max_json_bytes + 1)
        assert str(limits.max_json_bytes) in error_of(await connection.call("POST", INFER, body), 413)
    async with connected(address) as connection:
        bomb = gzip.compress(bytes(limits.max_binary_bytes + 1))
        assert "decompressed" in error_of(await connection.call("POST", INFER, bomb, {"Content-Encoding": "gzip"}), 413)
    async with connected(address) as connection:
        many = json.dumps(scale_request(np.ones((257, 4)))).encode()
        assert "256" in error_of(await connection.call("POST", INFER, many), 400)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: t\r\nContent-Length: ten\r\n\r\n", 400),
        (b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (
            b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /v2 HTTP/3.0\r\nHost: a\r\n\r\n", None),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"this is not HTTP\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ],
)
async def test_requests_that_are_not_quite_http(server: Server, head: bytes, status: int | None) -> None:
    """Answered as JSON too, and the connection ends: what follows on it cannot be trusted."""
    async with connected((server.host, server.port)) as connection:
        await connection.send(head)
        reply = await connection.reply()
        error_of(reply, status or reply.status)
        assert 400 <= reply.status < 600
        assert reply.status != 500
        assert reply.headers["connection"] == "close"
        assert await connection.rest() == b""


async def test_a_body_of_the_wrong_length(inprocess: Server) -> None:
    async with connected((inprocess.host, inprocess.port)) as connection:
        # Shorter than the document: it is cut, and the rest is not taken for a request of its own.
        await connection.send(
            f"POST {INFER} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(GOOD) - 10}\r\n\r\n".encode() + GOOD
        )
        error_of(await connection.reply(), 400)
        error_of(await connection.reply(), 400)
    async with connected((inprocess.host, inprocess.port)) as connection:
        # Longer than what comes, and then silence: the caller is told, and does not hang.
        await connection.send(
            f"POST {INFER} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(GOOD) + 10}\r\n\r\n".encode() + GOOD
        )
        assert "in time" in error_of(await connection.reply(), 408)


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    async with connected((server.host, server.port)) as connection:
        requests = [
            request_bytes("POST", INFER, json.dumps(scale_request(np.full((1, 4), number))).encode())
            for number in range(8)
        ]
        await connection.send(b"".join(requests))
        for number in range(8):
            reply = await connection.reply()
            assert reply.json()["outputs"][0]["data"] == [number * 3.0] * 4


def test_health_tells_in_its_body(server: Server) -> None:
    for path, body in (
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/scale/ready", {"name": "scale", "ready": True}),
        ("/v2/models/free/versions/1/ready", {"name": "free", "ready": True}),
    ):
        response = httpx.get(server.url + path)
        assert (response.status_code, response.json()) == (200, body)


def test_a_request_id_is_given_and_kept(server: Server) -> None:
    own = httpx.post(server.url + INFER, content=GOOD, headers={"x-request-id": "mine-1"})
    assert own.headers["x-request-id"] == "mine-1"
    given = [httpx.post(server.url + INFER, content=GOOD).headers["x-request-id"] for _ in range(3)]
    assert len(set(given)) == 3
    refused = httpx.post(server.url + INFER, content=b"{", headers={"x-request-id": "mine-2"})
    assert refused.headers["x-request-id"] == "mine-2"


def test_the_documentation_is_served_with_worked_examples(server: Server) -> None:
    page = httpx.get(f"{server.url}/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    described = httpx.get(f"{server.url}/openapi.json").json()
    paths = described["paths"]
    assert {"/v2", "/v2/health/live", "/v2/models", "/v2/models/{model}/infer"} <= paths.keys()
    operation = paths["/v2/models/{model}/infer"]["post"]
    request = operation["requestBody"]["content"]["application/json"]["example"]
    assert request["inputs"][0]["name"] == "image"
    assert request["parameters"]["latency_budget_ms"]
    answer = operation["responses"]["200"]["content"]["application/json"]["example"]
    served = httpx.post(f"{server.url}/v2/models/fashion/infer", json=_completed(request)).json()
    assert set(answer["parameters"]) == set(served["parameters"]), "the example tells what a real answer tells"
    for status in ("400", "404", "413", "422", "429", "503", "504"):
        assert operation["responses"][status]["content"]["application/json"]["example"]["error"]


def _completed(example: dict[str, Any]) -> dict[str, Any]:
    """The example with its abbreviated data written out, and time enough for a busy machine."""
    (image,) = example["inputs"]
    return {"inputs": [{**image, "data": [0] * 784}], "parameters": {"latency_budget_ms": 30_000}}


def test_the_metrics_port_has_one_path(server: Server) -> None:
    base = f"http://{server.host}:{server.metrics_port}"
    assert httpx.get(f"{base}/metrics").headers["content-type"].startswith("text/plain")
    assert "/metrics" in error_of(httpx.get(f"{base}/v2"), 404)
    error_of(httpx.post(f"{base}/metrics"), 405)


async def test_an_error_leaves_the_others_alone(server: Server) -> None:
    """Bad and good requests interleaved on connections of their own: each gets what it asked for."""
    good = await Connection.open((server.host, server.port))
    bad = await Connection.open((server.host, server.port))
    try:
        for number in range(50):
            await bad.send(request_bytes("POST", INFER, b"{"))
            await good.send(request_bytes("POST", INFER, json.dumps(scale_request(np.full((1, 4), number))).encode()))
            error_of(await bad.reply(), 400)
            assert (await good.reply()).json()["outputs"][0]["data"] == [number * 3.0] * 4
    finally:
        await good.close()
        await bad.close()


async def test_a_text_longer_than_the_largest_bucket_is_told_the_limit(server: Server) -> None:
    async with connected((server.host, server.port)) as connection:
        reply = await connection.infer("padded", {"inputs": [tensor("ids", "INT64", np.ones((2, 65), int))]})
        assert "input 'ids': expected a length of at most 64 (dimension 1), got 65" in error_of(reply, 400)
        reply = await connection.infer("padded", {"inputs": [tensor("ids", "INT64", np.ones((2, 64), int))]})
        assert reply.status == 200
