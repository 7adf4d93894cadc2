"""Several servers, the cap, TLS, and drains that lose nothing."""

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serving.http.doorkeeper import DrainSummary
from serving.http.fdshare import acquire_listener
from serving.http.limits import HttpLimits
from serving.http.server import HttpServer

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Serve = Callable[..., Awaitable[HttpServer]]


async def empty(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


class Held:
    """An application whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        while (await receive())["more_body"]:
            pass
        await self.let_go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers = []

    async def start(app: Any = empty, *, rendezvous: Path | None = None, port: int = 0, **more: Any) -> HttpServer:
        server = HttpServer(app, acquire_listener("127.0.0.1", port, rendezvous=rendezvous), **more)
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.close()


@contextlib.asynccontextmanager
async def client(server: HttpServer, **tls: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*server.address, **tls)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def closes(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 OK") and b"connection: close" in answer


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - one turn of the loop at a time, for there is no event to wait for
        await asyncio.sleep(0)


async def test_two_servers_live_in_one_loop(serve: Serve) -> None:
    servers = [await serve(), await serve()]
    for server in servers:
        async with client(server) as (reader, writer):
            writer.write(GET)
            assert (await head(reader)).startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert servers[0].address != servers[1].address


async def test_connections_above_the_cap_wait_for_their_turn(serve: Serve) -> None:
    server = await serve(limits=HttpLimits(max_connections=2))
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(server)) for _ in range(5)]
        for _, writer in clients:
            writer.write(GET)
        for reader, writer in clients:
            await head(reader)
            assert len(server.connections) <= 2
            writer.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_tls(serve: Serve, certificate: tuple[Path, Path]) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    server = await serve(tls=tls, limits=HttpLimits(header_timeout_s=1.0))
    async with client(server) as (reader, writer):
        writer.write(GET)  # no handshake
        with contextlib.suppress(ConnectionError):
            await reader.read()
    trust = ssl.create_default_context(cafile=certificate[0])
    async with client(server, ssl=trust, server_hostname="localhost") as (reader, writer):
        writer.write(GET)
        assert b"200 OK" in await head(reader)
        writer.write(b"nonsense\r\n\r\n")
        assert b"400 Bad Request" in await head(reader)


async def test_the_last_holder_answers_its_whole_backlog(serve: Serve) -> None:
    server = await serve()
    queued = [socket.create_connection(server.address) for _ in range(200)]  # the loop has no turn to accept
    for sock in queued:
        sock.send(GET)
        sock.setblocking(False)
    assert not server.connections
    summary = await server.drain(10.0, linger_s=0.05)
    assert summary == DrainSummary(finished=200, aborted=0)
    for sock in queued:
        assert closes(sock.recv(1000))
        assert sock.recv(1000) == b""
        sock.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address)


async def test_the_cap_does_not_keep_a_last_holder_from_its_backlog(serve: Serve) -> None:
    server = await serve(limits=HttpLimits(max_connections=2))
    queued = [socket.create_connection(server.address) for _ in range(20)]
    for sock in queued:
        sock.send(GET)
        sock.setblocking(False)
    assert (await server.drain(10.0, linger_s=0.05)).finished == 20
    for sock in queued:
        assert closes(sock.recv(1000))
        sock.close()


async def test_a_leaving_server_serves_on_and_ends_each_connection(serve: Serve) -> None:
    server = await serve()
    async with client(server) as (old, old_writer):
        old_writer.write(GET)
        assert not closes(await head(old))
        server.begin_leaving()
        old_writer.write(GET)
        assert closes(await head(old))
    async with client(server) as (new, new_writer):  # a load balancer that does not know yet
        new_writer.write(GET)
        assert closes(await head(new))


async def test_callers_who_keep_their_connections_come_to_a_new_holder_too(serve: Serve, tmp_path: Path) -> None:
    """With the next answer, so that nobody loses a request by it; and then they stay where they are."""
    limits = HttpLimits(header_timeout_s=0.2)  # looks at its connections every 50 ms
    old = await serve(rendezvous=tmp_path / "r", limits=limits)
    answered, moved = 0, 0
    done = asyncio.Event()

    async def caller() -> None:
        nonlocal answered, moved
        while not done.is_set():
            async with client(old) as (reader, writer):
                while not done.is_set():
                    writer.write(GET)
                    answer = await head(reader)
                    assert answer.startswith(b"HTTP/1.1 200 OK")
                    answered += 1
                    if closes(answer):
                        moved += 1
                        break
                    await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(caller())
        await until(lambda: len(old.connections) == 40 and answered > 200)
        assert moved == 0, "alone it lets nobody go"
        new = await serve(rendezvous=tmp_path / "r", port=old.address[1], limits=limits)
        await until(lambda: abs(len(new.connections) - len(old.connections)) <= 10 and len(new.connections) > 14)
        done.set()
    assert moved <= 60


async def test_another_holder_takes_the_backlog(serve: Serve, tmp_path: Path) -> None:
    leaving = await serve(rendezvous=tmp_path / "r")
    staying = await serve(rendezvous=tmp_path / "r", port=leaving.address[1])
    queued = [socket.create_connection(leaving.address) for _ in range(50)]
    summary, _ = await asyncio.gather(leaving.drain(10.0, linger_s=0.05), until(lambda: len(staying.connections) > 40))
    assert summary.aborted == 0
    async with client(staying) as (reader, writer):
        writer.write(GET)
        assert not closes(await head(reader))
    for sock in queued:
        sock.close()


async def test_a_drain_reads_what_was_begun_and_finishes_what_was_asked(serve: Serve) -> None:
    held = Held()
    server = await serve(held)
    async with client(server) as (busy, busy_writer), client(server) as (begun, begun_writer):
        busy_writer.write(GET)
        begun_writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        await held.asked.wait()
        await until(lambda: len(server.connections) == 2)
        draining = asyncio.create_task(server.drain(10.0, linger_s=0.01))
        await until(lambda: server._guard.draining_since_s)
        begun_writer.write(b"b")
        held.let_go.set()
        assert closes(await head(busy))
        assert closes(await head(begun))
        assert await draining == DrainSummary(finished=2, aborted=0)


async def test_pipelined_requests_are_all_answered_in_a_drain_and_the_last_says_close(serve: Serve) -> None:
    held = Held()
    server = await serve(held)
    async with client(server) as (reader, writer):
        writer.write(GET * 3)
        await held.asked.wait()
        draining = asyncio.create_task(server.drain(10.0, linger_s=0.01))
        await until(lambda: server._guard.draining_since_s)
        writer.write(GET)
        await until(lambda: server.connections and next(iter(server.connections)).unanswered == 4)
        held.let_go.set()
        assert [closes(await head(reader)) for _ in range(4)] == [False, False, False, True]
        assert (await draining).finished == 4


async def test_idle_connections_may_ask_once_more_during_the_linger(serve: Serve) -> None:
    server = await serve()
    async with client(server) as (asking, asking_writer), client(server) as (silent, silent_writer):
        for reader, writer in ((asking, asking_writer), (silent, silent_writer)):
            writer.write(GET)
            assert not closes(await head(reader))
        draining = asyncio.create_task(server.drain(10.0, linger_s=0.2))
        await until(lambda: server._guard.draining_since_s)
        asking_writer.write(GET)
        assert closes(await head(asking))
        assert await silent.read() == b""
        assert await draining == DrainSummary(finished=1, aborted=0)


async def test_the_silence_of_a_host_that_stood_still_is_held_against_nobody(serve: Serve) -> None:
    stood_still_s = 0.0
    server = await serve(clock=lambda: time.monotonic() + stood_still_s)
    async with client(server) as (reader, writer):
        writer.write(GET)
        await head(reader)
        draining = asyncio.create_task(server.drain(100.0, linger_s=2.0))
        await until(lambda: server._guard.draining_since_s)
        began_s = server._guard.draining_since_s
        stood_still_s = 30.0
        await until(lambda: server._guard.draining_since_s != began_s)
        assert server.connections
        writer.write(GET)
        assert closes(await head(reader))
        assert (await draining).finished == 1


async def test_what_is_not_done_at_the_end_of_the_grace_period_is_cut_and_counted(serve: Serve) -> None:
    held = Held()
    server = await serve(held)
    async with client(server) as (reader, writer):
        writer.write(GET + GET)
        await held.asked.wait()
        assert await server.drain(0.1, linger_s=0.01) == DrainSummary(finished=0, aborted=2)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert not server._state.tasks


async def test_an_old_idle_connection_has_the_whole_linger_and_unread_bytes_keep_it_open(serve: Serve) -> None:
    server = await serve()
    async with client(server) as (reader, writer):
        writer.write(GET)
        await head(reader)
        (connection,) = server.connections
        later_s = time.monotonic() + 30.0
        server._guard.draining_since_s = later_s
        connection.close_if_idle(later_s + 0.1, 0.2)
        assert not connection.transport.is_closing()
        os.write(writer.get_extra_info("socket").fileno(), GET)
        connection.close_if_idle(later_s + 0.3, 0.2)  # before the loop had a turn to read
        assert not connection.transport.is_closing()
        assert closes(await head(reader))
