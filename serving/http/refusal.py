"""Errors that the HTTP server itself answers, before any application has seen the request."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status and a fixed text. The connection ends with it: what follows on the wire cannot be trusted."""

    status: int
    text: str

    @property
    def body(self) -> bytes:
        """The JSON object that clients of this server find in every error."""
        return json.dumps({"error": self.text}).encode()

    def render(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The whole response, status line included; `default_headers` carries the date."""
        body = self.body
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in default_headers]
        lines += [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close"]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


class RequestRefused(Exception):
    """Raised in a callback of the parser to stop it; carries what to answer (None: nothing)."""

    def __init__(self, refusal: Refusal | None) -> None:
        super().__init__()
        self.refusal = refusal
