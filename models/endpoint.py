"""A small HTTP client for one endpoint that need not be trusted: bounded in time and bytes, and it goes nowhere else.

The standard library's `http.client` follows no redirects and reads no proxies from the environment. What it lacks is
a limit on the whole of an exchange: its time-outs begin anew with each byte that arrives.
"""

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

IDLE_S = 30.0
"""A connection unused for so long is not used again: the other side may have closed it unseen."""
_CHUNK_BYTES = 256 * 1024


class EndpointError(Exception):
    """No answer that can be used. The message names the reason, and nothing of the answer's content."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Endpoint:
    """Keep-alive connections to one host, as many as threads ask at once. Closed when nobody holds it any more."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, max_reply_bytes: int, tls: ssl.SSLContext | None = None
    ) -> None:
        """`url` with http or https, and what comes before every path; `headers` go with each request.

        `tls`: whom to trust with https; by default whom the system trusts.
        """
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._headers = dict(headers)
        self._most_bytes = max_reply_bytes
        self._idle: deque[_Connection] = deque()
        """Kept connections, the one used last at the end. Its operations are atomic."""

    def __del__(self) -> None:
        for connection in getattr(self, "_idle", ()):
            connection.end()

    def exchange(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        within_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request and its whole answer within the time. Raises `EndpointError`.

        A kept connection that turns out to be closed is replaced once: an inference may be asked for twice.
        """
        give_up_s = time.monotonic() + within_s
        kept = self._kept()
        if kept is not None:
            with contextlib.suppress(_StaleError):
                return self._through(kept, give_up_s, method, path, body, headers)
        try:
            return self._through(self._open(give_up_s), give_up_s, method, path, body, headers)
        except _StaleError as error:
            raise EndpointError("the connection was closed before the answer") from error

    def _kept(self) -> "_Connection | None":
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if time.monotonic() - connection.used_s <= IDLE_S:
                    return connection
                connection.end()
        return None

    def _open(self, give_up_s: float) -> "_Connection":
        connection = _Connection(self._host, self._port, self._tls, give_up_s)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.end()
            raise EndpointError(f"cannot connect: {_reason(error)}") from error
        return connection

    def _through(
        self,
        connection: "_Connection",
        give_up_s: float,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        connection.deadline.give_up_s = give_up_s
        begun = False
        try:
            connection.request(method, self._prefix + path, body, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            begun = True
            content = self._read(response)
        except (ConnectionError, http.client.BadStatusLine) as error:
            connection.end()
            if begun:
                raise EndpointError("the connection broke in the middle of the answer") from error
            raise _StaleError from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.end()
            raise EndpointError(_reason(error)) from error
        except BaseException:
            connection.end()
            raise
        if response.will_close:
            connection.end()
        else:
            connection.used_s = time.monotonic()
            self._idle.append(connection)
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if response.length is not None and response.length > self._most_bytes:
            raise EndpointError(f"the answer is larger than {self._most_bytes} bytes")
        parts, size = [], 0
        while part := response.read(_CHUNK_BYTES):
            size += len(part)
            if size > self._most_bytes:
                raise EndpointError(f"the answer is larger than {self._most_bytes} bytes")
            parts.append(part)
        return b"".join(parts)


class _StaleError(Exception):
    """The connection was closed before a byte of the answer came."""


class _Deadline:
    """When an exchange must have ended."""

    def __init__(self, give_up_s: float) -> None:
        self.give_up_s = give_up_s

    def left_s(self) -> float:
        """Time left; `TimeoutError` when there is none."""
        left_s = self.give_up_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no answer within the time limit")
        return left_s


class _Connection(http.client.HTTPConnection):
    """A connection whose every read and write ends at the deadline of the exchange it belongs to."""

    def __init__(self, host: str, port: int | None, tls: ssl.SSLContext | None, give_up_s: float) -> None:
        super().__init__(host, port or (443 if tls is not None else 80))
        self.deadline = _Deadline(give_up_s)
        self.used_s = 0.0
        self._context = tls
        self._wire: socket.socket | None = None

    def connect(self) -> None:
        """Open the socket, with TLS where asked for."""
        plain = socket.create_connection((self.host, self.port), self.deadline.left_s())
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            plain.settimeout(self.deadline.left_s())
            wire = plain if self._context is None else self._context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        # All that http.client asks of a socket is in _Timed.
        self.sock: Any = _Timed(wire, self.deadline)
        self._wire = wire

    def end(self) -> None:
        """Close the connection. (`close` is called by http.client itself, also when it has an answer yet to read.)"""
        self.close()
        if self._wire is not None:
            self._wire.close()


class _Timed:
    """A socket as `http.client` uses one."""

    def __init__(self, wire: socket.socket, deadline: _Deadline) -> None:
        self._wire = wire
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        """Send all; the time-out of a socket counts for the whole of it."""
        self._wire.settimeout(self._deadline.left_s())
        self._wire.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - http.client only reads
        """What answers are read from."""
        return io.BufferedReader(_TimedReader(self._wire, self._deadline))

    def close(self) -> None:
        """Whoever owns the connection closes the socket: see `_Connection.end`."""


class _TimedReader(io.RawIOBase):
    def __init__(self, wire: socket.socket, deadline: _Deadline) -> None:
        super().__init__()
        self._wire = wire
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wire.settimeout(self._deadline.left_s())
        return self._wire.recv_into(buffer)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer within the time limit"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
