import socket
import threading

import pytest

from loadtests.client import Wire, WireError
from tests.support.fake_gateway import METADATA, FakeGateway


@pytest.fixture
def gateway():
    fake = FakeGateway()
    yield fake
    fake.stop()


@pytest.fixture
def raw():
    """A listener that answers each connection's first bytes with what it is given, and closes it."""
    listeners = []

    def listen(content):
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        listeners.append(listener)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_document_and_an_exchange(gateway):
    wire = Wire(gateway.url, 2, 10.0)
    assert wire.get("/v2/models/tiny") == METADATA
    reply = wire.exchange(wire.request("POST", "/v2/models/tiny/infer", {"X-A": "b"}, b"body"))
    assert reply.status == 200
    assert b"large" in reply.body
    wire.close()


def test_a_refusal_keeps_status_and_words(gateway):
    wire = Wire(gateway.url, 1, 10.0)
    with pytest.raises(WireError, match="GET /v2/models/other: status 404, unknown model"):
        wire.get("/v2/models/other")
    wire.close()


def test_a_request_is_whole_and_keeps_the_prefix_of_the_host():
    wire = Wire("http://example.test:81/base/", 1, 1.0)
    head, _, body = wire.request("POST", "/v2", {"A": "b"}, b"xyz").partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [b"POST /base/v2 HTTP/1.1", b"Host: example.test:81", b"A: b", b"Content-Length: 3"]
    assert body == b"xyz"


@pytest.mark.parametrize("content", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"SSH-2.0\r\n\r\n"])
def test_answers_that_break_off_or_are_none(raw, content):
    wire = Wire(raw(content), 1, 10.0)
    for _ in range(3):  # each time the connection is given back, or this would wait for ever
        with pytest.raises(WireError):
            wire.exchange(wire.request("GET", "/", {}))


def test_a_host_that_does_not_listen():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    wire = Wire(f"http://127.0.0.1:{port}", 1, 10.0)
    for _ in range(2):
        with pytest.raises(WireError, match="no connection"):
            wire.exchange(wire.request("GET", "/", {}))


def test_the_time_limit_covers_everything():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wire = Wire(f"http://127.0.0.1:{silent.getsockname()[1]}", 1, 0.05)
        for _ in range(2):
            with pytest.raises(WireError, match=r"no answer within 0\.05 s"):
                wire.exchange(wire.request("GET", "/", {}))


@pytest.mark.parametrize("host", ["", "localhost:8000", "ftp://x", "http://", "http://x:y", "http://x:99999"])
def test_what_is_no_address(host):
    with pytest.raises(WireError, match="is not the address of a host"):
        Wire(host, 1, 1.0)
