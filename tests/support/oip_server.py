"""An endpoint of the Open Inference Protocol in a thread, that does what a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]
"""From path, headers (names in lower case) and body of a POST to status, headers and body."""


@dataclass
class Endpoint:
    """What the server says, and what it was asked."""

    url: str = ""
    extensions: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    answer: Answer = lambda _path, _headers, _body: (500, {}, b"{}")
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0


@contextmanager
def running(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Serve on a free port of the loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or the body waits 40 ms for the client to acknowledge the head

        def setup(self) -> None:
            endpoint.connections += 1
            super().setup()

        def do_GET(self) -> None:
            told = {"name": "double", "extensions": endpoint.extensions} if self.path == "/v2" else endpoint.metadata
            self.note(b"")
            self.reply(200, {}, json.dumps(told).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.reply(*endpoint.answer(self.path, self.note(body), body))

        def note(self, body: bytes) -> dict[str, str]:
            headers = {name.lower(): value for name, value in self.headers.items()}
            endpoint.asked.append((self.command, self.path, headers, body))
            return headers

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
