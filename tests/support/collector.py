"""A collector of spans: what an OpenTelemetry collector's OTLP over HTTP receives, kept in memory."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Spans that have come so far. `status` other than 200 refuses them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 200
        self.requests = 0
        self.services: set[str] = set()
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        """Of each request, the names in lower case."""
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[Span]:
        """In the order they came."""
        with self._lock:
            return list(self._spans)

    def receive(self, body: bytes) -> None:
        """Take one export."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.requests += 1
            if self.status != 200:
                return
            for resource in request.resource_spans:
                self.services |= {
                    pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name"
                }
                for scope in resource.scope_spans:
                    self._spans.extend(scope.spans)


@contextlib.contextmanager
def collecting(answer: bytes = b"") -> Iterator[Collector]:
    """A collector on a free port of loopback; by default it answers that it took everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.paths.append(self.path)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            collector.receive(body)
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
