"""A gateway that only seems to serve: metadata, and answers as a test wants them. Each connection has its thread."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METADATA = {
    "name": "tiny",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    "gearshift": {
        "version": "1",
        "padding": {},
        "variants": [
            {
                "name": "large",
                "accuracy": 0.9,
                "knee_rows": 4,
                "energy_mj_per_row": 20.0,
                "profile": {"rows": [1, 2, 4], "ms": [2.0, 3.0, 4.0]},
            },
            {"name": "small", "accuracy": 0.6, "knee_rows": 2, "profile": {"rows": [1, 2], "ms": [0.5, 1.0]}},
        ],
    },
}
"""Of model `tiny`, as GET /v2/models/tiny tells."""

Reply = tuple[int, dict]


def answered(variant: str = "large", batch_rows: int = 1, compute_ms: float = 2.0) -> Reply:
    """A 200 by that variant."""
    return 200, {"parameters": {"variant": variant, "batch_rows": batch_rows, "compute_ms": compute_ms}, "outputs": []}


class FakeGateway:
    """Listens on a free port until `stop`. `reply` is called with the number of each inference, from 1."""

    def __init__(self, reply: Callable[[int], Reply] = lambda _: answered()) -> None:
        self.requests = 0
        self._reply = reply
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                fake._connections.add(self.connection)

            def do_GET(self) -> None:
                known = self.path == "/v2/models/tiny"
                self._send(200 if known else 404, METADATA if known else {"error": "unknown model"})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                with fake._lock:
                    fake.requests += 1
                    number = fake.requests
                self._send(*fake._reply(number))

            def _send(self, status: int, document: dict) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 512

            def handle_error(self, *_: object) -> None:
                pass  # callers who went away, or a connection we have cut

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def die(self) -> None:
        """As a killed process does: no listener, and every connection gone. May be called by `reply`."""
        self._server.socket.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._server.shutdown()
        self.die()
        self._thread.join()
