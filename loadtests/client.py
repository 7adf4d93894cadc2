# mypy: allow-subclassing-any
"""A lean HTTP/1.1 client for load: requests written beforehand, connections kept, one time limit for everything.

The generator often shares its cores with the server it measures, so what a request costs here is taken from there.
Locust's own `FastHttpUser` assembles headers, cookies and addresses anew for each request, and times it from the real
send.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import gevent
import orjson
from geventhttpclient.connectionpool import ConnectionPool, SSLConnectionPool
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketPoolResponse

from loadtests.answers import HEADER_LENGTH


class WireError(Exception):
    """No answer came; the message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete HTTP answer."""

    status: int
    header_length: str | None
    """The header `Inference-Header-Content-Length` of binary answers."""
    body: bytes


class Wire:
    """Connections to one host."""

    def __init__(self, host: str, connections: int, timeout_s: float) -> None:
        """`host`: http://name[:port][/prefix] or https. Raises `WireError` for anything else.

        The API key for a host that asks for one is $GEARSHIFT_API_KEY.
        """
        self.url = _split(host)
        self._timeout_s = timeout_s
        key = os.environ.get("GEARSHIFT_API_KEY")
        self._key = [f"Authorization: Bearer {key}"] if key else []
        port = self.url.port or (443 if self.url.scheme == "https" else 80)
        name = self.url.hostname or ""
        pool = _TlsPool if self.url.scheme == "https" else _Pool
        self._pool = pool(
            name, port, name, port, size=connections, connection_timeout=timeout_s, network_timeout=timeout_s
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        """A whole request, ready to be exchanged as often as needed."""
        target = self.url.path.rstrip("/") + path
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.url.netloc.rpartition('@')[2]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += self._key
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def exchange(self, request: bytes) -> Reply:
        """Send, and read the whole answer. Raises `WireError`."""
        limit = gevent.Timeout.start_new(self._timeout_s, WireError(f"no answer within {self._timeout_s:g} s"))
        try:
            response = HTTPSocketPoolResponse(self._sent(request), self._pool)
            # A connection that ends within a body ends this; the parser knows of no end by itself.
            body = response.read()
            length = response.get(HEADER_LENGTH)
            return Reply(response.get_code(), length if isinstance(length, str) else None, body)
        except HTTPConnectionClosed:
            raise WireError("the connection was closed before an answer") from None
        except HTTPParseError as error:
            raise WireError(f"the answer is not HTTP, or broke off: {error}") from None
        except OSError as error:
            raise WireError(f"no connection: {error.strerror or error}") from None
        finally:
            limit.close()

    def get(self, path: str) -> Any:
        """A JSON document. Raises `WireError`, also for a status other than 200."""
        reply = self.exchange(self.request("GET", path, {"Accept": "application/json"}))
        try:
            document = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            document = None
        if reply.status != 200 or document is None:
            said = document.get("error") if isinstance(document, dict) else None
            raise WireError(f"GET {path}: status {reply.status}{f', {said}' if said else ''}")
        return document

    def _sent(self, request: bytes) -> Any:
        sock = self._pool.get_socket()
        try:
            sock.sendall(request)
        except BaseException:
            self._pool.release_socket(sock)
            raise
        return sock


class _Pool(ConnectionPool):
    """Connections that do not wait for more to send."""

    def after_connect(self, sock: Any) -> None:
        """Called by the pool."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _TlsPool(SSLConnectionPool):
    """The same over TLS; certificates are checked (SSL_CERT_FILE names an authority of one's own)."""

    def after_connect(self, sock: Any) -> None:
        """Called by the pool."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _split(host: str) -> SplitResult:
    try:
        url = urlsplit(host)
        known = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        known = False
    if not known:
        raise WireError(f"'{host}' is not the address of a host: write it as http://127.0.0.1:8000")
    return url
