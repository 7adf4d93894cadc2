"""The guarded protocol over real sockets. Timeouts are tiny, and waited for, never slept."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.http.fdshare import acquire_listener
from serving.http.limits import HttpLimits
from serving.http.protocol import RECEIVED_KEY, Guard, GuardedProtocol
from serving.http.server import HttpServer

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
Answer = tuple[int, dict[bytes, bytes], Any]
Serve = Callable[..., Awaitable[HttpServer]]


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with what was asked; `/boom` fails, `/early` answers without reading the body."""
    if scope["path"] == "/boom":
        raise LookupError("secret")
    body = b""
    more = scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    answer = {
        "method": scope["method"],
        "path": scope["path"],
        "body": body.decode(),
        "headers": [name.decode() for name, _ in scope["headers"]],
        "received_s": scope.get(RECEIVED_KEY),
    }
    await respond(send, json.dumps(answer).encode())


async def respond(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers = []

    async def start(app: Any = echo, **limits: float) -> HttpServer:
        server = HttpServer(app, acquire_listener("127.0.0.1", 0), HttpLimits(**limits))  # type: ignore[arg-type]
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.close()


@contextlib.asynccontextmanager
async def client(server: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head[:-4].split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    body = await reader.readexactly(int(headers[b"content-length"]))
    return int(status.split()[1]), headers, json.loads(body)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - one turn of the loop at a time, for there is no event to wait for
        await asyncio.sleep(0)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, byte: bytes) -> Answer:
    """Send a byte now and then until the server has had enough."""
    reading = asyncio.ensure_future(answer(reader))
    while not reading.done():
        with contextlib.suppress(ConnectionError):
            writer.write(byte)
        await asyncio.wait([reading], timeout=0.01)
    return await reading


async def test_requests_are_served_and_stamped(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        for _ in range(2):
            before_s = time.monotonic()
            writer.write(GET)
            status, headers, body = await answer(reader)
            assert (status, body["path"]) == (200, "/a")
            assert before_s <= body["received_s"] <= time.monotonic()
            assert b"date" in headers
            assert b"connection" not in headers


async def test_a_head_request_is_answered_without_a_body_and_keeps_the_connection(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(GET.replace(b"GET", b"HEAD"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.write(GET)
        assert (await answer(reader))[0] == 200


async def test_the_stamp_is_that_of_the_last_byte(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        before_s = time.monotonic()
        writer.write(b"ab")
        _, _, body = await answer(reader)
        assert body["received_s"] >= before_s


HOST = b"Host: x\r\n"
MALFORMED = {
    "garbage": (b"\x16\x03\x01\x02\x00", 400, "malformed"),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\n\n", 400, "malformed"),
    "folded": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "malformed"),
    "NUL": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400, "malformed"),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, "malformed"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "no Host"),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400, "more than one Host"),
    "length, coding": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Length",
    ),
    "coding, length": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400, "Length",
    ),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "Length"),
    "odd length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400, "malformed"),
    "coding of 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "ambiguous"),
    "other coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "chunked"),
    "chunk": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed"),
    "target": (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "HTTP/1.1"),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
    "CONNECT": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501, "CONNECT"),
    "long line": (b"GET / HTTP/1.1\r\nA: " + b"a" * 3000, 431, "larger than 2048 bytes"),
    "long target": (b"GET /" + b"a" * 3000, 431, "larger than 2048 bytes"),
    "long head": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 2048 + b"\r\n\r\n", 431, "larger than 2048 bytes"),
    "many lines": (b"GET / HTTP/1.1\r\n" + HOST + b"A:\r\n" * 10 + b"\r\n", 431, "more than 10 header lines"),
    "trailers": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: bcd\r\n" * 600, 431, "trailers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_malformed_or_too_large_is_refused_in_json(serve: Serve, case: str) -> None:
    sent, expected_status, text = MALFORMED[case]
    async with client(await serve(max_header_bytes=2048, max_headers=10)) as (reader, writer):
        writer.write(sent)
        status, headers, body = await answer(reader)
        assert status == expected_status
        assert text in body["error"]
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"connection"] == b"close"
        assert await reader.read() == b""


async def test_a_refusal_follows_the_answers_to_earlier_requests(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(GET + GET + b"nonsense\r\n\r\n" + GET)
        assert [(await answer(reader))[0] for _ in range(3)] == [200, 200, 400]
        assert await reader.read() == b""


async def test_a_broken_body_of_a_queued_request_is_refused_in_its_turn(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(GET + b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 400]
        assert await reader.read() == b""


async def test_a_huge_head_is_refused_early_and_the_refusal_survives_the_rest(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000)
        assert (await answer(reader))[0] == 431
    async with client(await serve()) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * (8 << 20))
        await writer.drain()
        assert (await answer(reader))[0] == 431


async def test_a_large_body_is_no_large_head(serve: Serve) -> None:
    async with client(await serve(max_header_bytes=200)) as (reader, writer):
        size = 100_000
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size + GET[:-2])
        assert len((await answer(reader))[2]["body"]) == size
        writer.write(b"\r\n")
        assert (await answer(reader))[0] == 200


async def test_a_socket_that_says_nothing_is_closed_in_silence(serve: Serve) -> None:
    async with client(await serve(header_timeout_s=0.05)) as (reader, _):
        assert await reader.read() == b""


async def test_an_idle_connection_is_closed_in_silence(serve: Serve) -> None:
    async with client(await serve(keep_alive_s=0.05)) as (reader, writer):
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""


@pytest.mark.parametrize(
    ("first", "limits"),
    [
        (b"G", {"header_timeout_s": 0.1}),
        (b"GET / HTTP/1.1\r\nHost: ", {"header_timeout_s": 0.1}),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", {"body_timeout_s": 0.1}),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", {"body_timeout_s": 0.1}),
    ],
)
async def test_a_dripping_request_is_cut(serve: Serve, first: bytes, limits: dict[str, float]) -> None:
    async with client(await serve(**limits)) as (reader, writer):
        writer.write(first)
        status, headers, body = await drip(reader, writer, b"E" if first == b"G" else b"a")
        assert status in (408, 400)
        if first != b"G":  # a method is known by its letters
            assert status == 408
            assert "in time" in body["error"]
        assert headers[b"connection"] == b"close"


async def test_a_stalled_body_is_cut_before_its_whole_time_is_over(serve: Serve) -> None:
    async with client(await serve(body_stall_s=0.05)) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        assert (await answer(reader))[0] == 408


async def test_time_in_which_the_application_does_not_read_is_not_the_clients(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    server = await serve(slow)
    async with client(server) as (reader, writer):
        size = 400_000
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size)
        await until(lambda: any(connection.flow.read_paused for connection in server.connections))
        (connection,) = server.connections
        connection.sweep(time.monotonic() + 100.0, 100.0)
        go_on.set()
        status, _, body = await answer(reader)
        assert status == 200
        assert len(body["body"]) == size


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(16)))
        assert [(await answer(reader))[2]["path"] for _ in range(16)] == [f"/{i}" for i in range(16)]
        writer.write(GET)
        assert (await answer(reader))[0] == 200


async def test_a_flood_of_pipelined_requests_is_capped(serve: Serve) -> None:
    async with client(await serve(max_pipelined=4)) as (reader, writer):
        writer.write(GET * 1000)
        assert [(await answer(reader))[0] for _ in range(5)] == [200, 200, 200, 200, 429]
        assert await reader.read() == b""


async def test_a_reader_that_does_not_read_is_cut(serve: Serve) -> None:
    told = asyncio.Event()

    async def large(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await respond(send, b" " * (32 << 20))
        await receive()
        told.set()

    server = await serve(large, write_timeout_s=0.1)
    async with client(server) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        await told.wait()
        await until(lambda: not server.connections)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < 32 << 20


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
@pytest.mark.parametrize("split", [0, 4, 13])
async def test_upgrades_are_ignored_and_lose_no_body(serve: Serve, upgrade: bytes, split: int) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\n" % upgrade
    body = b"GET / HTTP/1."
    async with client(await serve()) as (reader, writer):
        for _ in range(2):
            writer.write(head + b"Content-Length: 13\r\n\r\n" + body[:split])
            await writer.drain()
            writer.write(body[split:] + GET)
            status, _, echoed = await answer(reader)
            assert (status, echoed["body"]) == (200, body.decode())
            assert "upgrade" not in echoed["headers"]
            assert (await answer(reader))[2]["method"] == "GET"


async def test_an_answer_that_overtakes_its_request_arrives_and_ends_the_connection(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        size = 4 << 20
        writer.write(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * size) + b"a" * size)
        await writer.drain()
        status, headers, _ = await answer(reader)
        assert status == 200
        assert headers[b"connection"] == b"close"
        assert await reader.read() == b""


async def test_what_follows_a_request_that_closes_is_ignored(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET)
        assert (await answer(reader))[2]["path"] == "/last"
        assert await reader.read() == b""


async def test_trailers_do_not_become_headers(serve: Serve) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: b\r\n\r\n"
        )
        _, _, body = await answer(reader)
        assert body["headers"] == ["host", "transfer-encoding"]


async def test_a_failing_application_answers_in_json_and_tells_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(await serve()) as (reader, writer):
        writer.write(b"GET /boom HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, body = await answer(reader)
        assert (status, body) == (500, {"error": "internal error"})
        assert headers[b"content-type"] == b"application/json"
    assert [record.name for record in caplog.records] == ["gearshift.http"]


async def test_every_unanswered_request_learns_that_the_client_is_gone(serve: Serve) -> None:
    started, told = asyncio.Event(), asyncio.Event()

    async def waiting(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        started.set()
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    server = await serve(waiting)
    async with client(server) as (_, writer):
        writer.write(GET + GET)  # the running request is not the last one that was received
        await started.wait()
    await told.wait()
    assert not server.connections


class Wire(asyncio.Transport):
    """A transport that keeps what is written; enough of one for the protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Bench:
    """A connection on a `Wire`, with a clock that is moved by hand."""

    def __init__(self, app: Any, limits: HttpLimits | None = None) -> None:
        config = Config(app, interface="asgi3", ws="none", lifespan="off", log_config=None)
        config.load()
        self.now_s = 0.0
        self.state, self.wire = ServerState(), Wire()
        self.guard = Guard(limits or HttpLimits(), lambda: self.now_s, lambda: None)
        self.protocol = GuardedProtocol(config, self.state, self.guard)
        self.protocol.connection_made(self.wire)

    async def feed(self, piece: bytes) -> None:
        """Give bytes, and the application some turns of the loop."""
        if not self.wire.closed:
            self.protocol.data_received(piece)
        for _ in range(8):
            await asyncio.sleep(0)

    def pass_time(self, elapsed_s: float) -> None:
        self.now_s += elapsed_s
        self.protocol.sweep(self.now_s, elapsed_s)

    async def hang_up(self) -> None:
        self.protocol.connection_lost(None)
        if self.state.tasks:
            await asyncio.wait(self.state.tasks)


async def gone(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Never answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def test_only_the_time_in_which_bytes_are_wanted_counts() -> None:
    go_on = asyncio.Event()

    async def late(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await go_on.wait()
        await gone(scope, receive, send)

    bench = Bench(late)
    await bench.feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"a" * 100_000)
    bench.pass_time(100.0)
    go_on.set()
    await bench.feed(b"a")
    bench.pass_time(4.9)
    assert bench.wire.written == b""
    bench.pass_time(0.2)
    assert bench.wire.written.startswith(b"HTTP/1.1 408")
    await bench.hang_up()


async def test_the_head_of_a_request_behind_a_running_one_has_its_time_when_it_is_read() -> None:
    bench = Bench(gone)
    await bench.feed(GET + GET[:10])
    bench.protocol.flow.pause_reading()
    bench.pass_time(100.0)
    bench.protocol.flow.resume_reading()
    bench.pass_time(4.9)
    assert bench.protocol._parting is None
    bench.pass_time(0.2)
    assert bench.protocol._parting is not None
    assert bench.wire.written == b""  # the running request comes first
    await bench.hang_up()


async def test_a_head_in_small_pieces_is_measured_too() -> None:
    bench, fed = Bench(gone, HttpLimits(max_header_bytes=1000)), 0
    await bench.feed(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
    while not bench.wire.written:
        await bench.feed(b"a" * 100)
        fed += 100
    assert fed == 1000
    assert bench.wire.written.startswith(b"HTTP/1.1 431")
    await bench.hang_up()


@pytest.mark.parametrize(
    "last",
    [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"],
)
async def test_nothing_is_started_after_a_request_that_closes(last: bytes) -> None:
    bench = Bench(gone)
    await bench.feed(last + GET)
    await bench.feed(GET)
    assert bench.protocol.unanswered == 1
    await bench.hang_up()


def converse(pieces: list[bytes]) -> bytes:
    """What the protocol answers to these pieces."""

    async def run() -> bytes:
        bench = Bench(echo_body)
        for piece in pieces:
            await bench.feed(piece)
        await bench.hang_up()
        return bench.wire.written

    return asyncio.run(run())


async def echo_body(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await respond(send, scope["method"].encode() + b" " + scope["path"].encode() + b" " + body)


CONVERSATION = (
    b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
    b"POST /3 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\ndef"
    b"POST /4 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nghi\r\n0\r\nA: b\r\n\r\n"
    b"GET /5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /6 HTTP/1.1\r\nHost: x\r\n\r\n"
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=8))
def test_where_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    written = converse([CONVERSATION[a:b] for a, b in pairwise(edges) if a < b])
    answers = [part for part in written.split(b"HTTP/1.1 200 OK\r\n") if part]
    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [
        b"POST /1 abc", b"GET /2 ", b"POST /3 def", b"POST /4 ghi", b"GET /5 ",
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CONVERSATION) - 1), st.binary(max_size=3)), min_size=1, max_size=4))
def test_damaged_requests_are_answered_or_refused_and_never_an_internal_error(damage: list[tuple[int, bytes]]) -> None:
    damaged = CONVERSATION
    for at, what in damage:
        damaged = damaged[:at] + what + damaged[at + 1 :]
    written = converse([damaged])
    assert b"HTTP/1.1 500" not in written
    assert not written or written.startswith(b"HTTP/1.1 ")
