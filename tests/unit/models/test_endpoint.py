import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from models.endpoint import Endpoint, EndpointError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def listening(*talks: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that holds these conversations, one a connection, then none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for talk in talks:
                try:
                    wire, _ = server.accept()
                except OSError:
                    return
                with wire:
                    talk(wire)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/base"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def heard(wire: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (part := wire.recv(65536)):
        data += part
    return data


def ask(endpoint: Endpoint, within_s: float = 20.0) -> bytes:
    return endpoint.exchange("GET", "/v2", within_s=within_s).body


def test_a_request_goes_where_it_should() -> None:
    said = []

    def talk(wire: socket.socket) -> None:
        said.append(heard(wire))
        wire.sendall(OK)

    with listening(talk) as url:
        assert ask(Endpoint(url, {"X-Own": "1"}, max_reply_bytes=2)) == b"ok"
    assert said[0].startswith(b"GET /base/v2 HTTP/1.1\r\n")
    assert b"X-Own: 1\r\n" in said[0]


def test_a_connection_that_was_closed_unseen_is_replaced() -> None:
    def once(wire: socket.socket) -> None:
        heard(wire)
        wire.sendall(OK)

    with listening(once, once) as url:
        endpoint = Endpoint(url, {}, max_reply_bytes=10)
        assert [ask(endpoint), ask(endpoint)] == [b"ok", b"ok"]


def test_a_fresh_connection_is_not_tried_twice() -> None:
    def hang_up(wire: socket.socket) -> None:
        heard(wire)

    with listening(hang_up) as url, pytest.raises(EndpointError, match="closed before the answer"):
        ask(Endpoint(url, {}, max_reply_bytes=10))


def test_silence_ends_with_the_time() -> None:
    done = threading.Event()
    with listening(lambda wire: (heard(wire), done.wait(20), None)[-1]) as url:
        with pytest.raises(EndpointError, match="within the time limit"):
            ask(Endpoint(url, {}, max_reply_bytes=10), within_s=0.05)
        done.set()


@pytest.mark.parametrize("drop", [b"H", b"\r\n\r\n"])
def test_a_trickle_ends_with_the_time(drop: bytes) -> None:
    """Each byte comes soon after the last; the whole never ends."""
    done = threading.Event()

    def trickle(wire: socket.socket) -> None:
        heard(wire)
        wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nX: " + drop)
        while not done.wait(0.01):
            try:
                wire.sendall(b"x")
            except OSError:
                return

    with listening(trickle) as url:
        with pytest.raises(EndpointError, match="within the time limit"):
            ask(Endpoint(url, {}, max_reply_bytes=2_000_000), within_s=0.2)
        done.set()


@pytest.mark.parametrize("head", [b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\n", b"\r\n"])
def test_a_large_answer_is_refused(head: bytes) -> None:
    def talk(wire: socket.socket) -> None:
        heard(wire)
        wire.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"12345678901\r\n0\r\n\r\n")

    with listening(talk) as url, pytest.raises(EndpointError, match="larger than 10 bytes"):
        ask(Endpoint(url, {}, max_reply_bytes=10))


def test_what_is_not_http_is_an_error() -> None:
    def talk(wire: socket.socket) -> None:
        heard(wire)
        wire.sendall(b"220 mail.example ESMTP\r\n")

    with listening(talk) as url, pytest.raises(EndpointError):
        ask(Endpoint(url, {}, max_reply_bytes=10))


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    def talk(wire: socket.socket) -> None:
        heard(wire)
        wire.sendall(OK)

    with listening(talk) as url:
        assert ask(Endpoint(url, {}, max_reply_bytes=10)) == b"ok"


def test_tls_is_verified() -> None:
    with listening(lambda wire: (heard(wire), None)[-1]) as url, pytest.raises(EndpointError, match="cannot connect"):
        ask(Endpoint(url.replace("http:", "https:"), {}, max_reply_bytes=10), within_s=5.0)
