import asyncio
import contextlib

import pytest

from loadtests.benchmark.closed_loop import closed_loop
from loadtests.benchmark.wire import Payload

PAYLOAD = Payload(b"question", {"Content-Type": "text/plain"})
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer"


@contextlib.asynccontextmanager
async def server(answer):
    """Serve `answer(index, head, body)` -> bytes | None (None: close); counts connections and requests."""
    seen = []
    connections = []
    handlers = []

    async def handle(reader, writer):
        connections.append(writer)
        handlers.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                seen.append((head, body))
                reply = answer(len(seen))
                if reply is None:
                    break
                writer.write(reply)
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/infer", seen, connections
    finally:
        listener.close()
        for _ in range(10):  # what was accepted a moment ago needs some turns of the loop to be a connection
            await asyncio.sleep(0)
        for writer in connections:
            writer.close()
        await asyncio.gather(*handlers)
        await listener.wait_closed()


async def test_each_connection_stays_open_and_its_requests_carry_body_and_headers():
    async with server(lambda _: OK) as (url, seen, connections):
        result = await closed_loop(url, PAYLOAD, connections=3, duration_s=0.2, timeout_s=5.0)
    assert len(connections) == 3
    assert len(seen) - 3 <= result.requests <= len(seen)
    assert result.requests > 3
    head, body = seen[0]
    assert head.startswith(b"POST /infer HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Content-Type: text/plain\r\n" in head
    assert body == b"question"
    assert result.errors == {}
    assert 0 < result.p50_s <= result.p99_s <= result.seconds


async def test_bad_statuses_are_answers_and_errors_both():
    bad = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
    async with server(lambda _: bad) as (url, _, _connections):
        result = await closed_loop(url, PAYLOAD, connections=1, duration_s=0.1, timeout_s=5.0)
    assert result.requests > 0
    assert result.errors == {"status": result.requests}


async def test_a_closed_connection_is_a_read_error_and_is_opened_again():
    async with server(lambda index: None if index == 2 else OK) as (url, _, connections):
        result = await closed_loop(url, PAYLOAD, connections=1, duration_s=0.3, timeout_s=5.0)
    assert result.errors == {"read": 1}
    assert len(connections) == 2
    assert result.requests > 1


async def test_connection_close_is_honoured_without_an_error():
    last = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with server(lambda _: last) as (url, seen, connections):
        result = await closed_loop(url, PAYLOAD, connections=1, duration_s=0.2, timeout_s=5.0)
    assert result.errors == {}
    assert result.requests > 1
    assert len(connections) >= len(seen)


async def test_silence_is_a_timeout():
    async with server(lambda _: b"") as (url, _, _connections):
        result = await closed_loop(url, PAYLOAD, connections=1, duration_s=0.5, timeout_s=0.05)
    assert result.requests == 0
    assert set(result.errors) == {"timeout"}


@pytest.mark.parametrize("reply", [b"gibberish\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
async def test_an_answer_it_cannot_read_is_a_read_error(reply):
    async with server(lambda _: reply) as (url, _, _connections):
        result = await closed_loop(url, PAYLOAD, connections=1, duration_s=0.2, timeout_s=5.0)
    assert result.requests == 0
    assert set(result.errors) == {"read"}


async def test_a_refused_connection_is_counted_and_not_tried_in_a_spin():
    async with server(lambda _: OK) as (url, _, _connections):
        pass
    result = await closed_loop(url, PAYLOAD, connections=1, duration_s=0.3, timeout_s=5.0)
    assert result.requests == 0
    assert 1 <= result.errors["connect"] <= 10
