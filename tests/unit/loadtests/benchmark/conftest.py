"""A tiny server of the Open Inference Protocol: the output is the first ten numbers of the row."""

import numpy as np
import pytest

from loadtests.benchmark.oracle import Oracle
from loadtests.benchmark.servers import ServerSpec
from loadtests.fixtures import sample_rows

# The first argument is the port, the second says what is wrong with the server.
STUB = """
import http.server, json, os, struct, sys
fault = sys.argv[2]
print("stub starts", fault, os.environ.get("STUB_NOTE"), flush=True)
if fault == "exit":
    sys.exit(7)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(503 if fault == "unready" else 200, b"{}")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        split = self.headers.get("Inference-Header-Content-Length")
        if split is None:
            data = json.loads(body)["inputs"][0]["data"][:10]
        else:
            data = struct.unpack_from("<10f", body, int(split))
        if fault == "wrong":
            data = data[1:] + data[:1]
        if fault == "nan":
            data = [float("nan")] * 10
        if fault == "short":
            data = data[:9]
        if fault == "error":
            return self.reply(500, b'{"error": "out of order"}')
        tensor = {"name": "output", "datatype": "FP32", "shape": [1, len(data)]}
        if split is None:
            return self.reply(200, json.dumps({"outputs": [tensor | {"data": data}]}).encode())
        head = json.dumps({"outputs": [tensor]}).encode()
        return self.reply(
            200, head + struct.pack("<10f", *data), Inference_Header_Content_Length=str(len(head))
        )

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 64
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def stub():
    def spec(fault="none", name="stub", start_timeout_s=30.0):
        return ServerSpec(
            name=name,
            about=f"a stub, fault {fault}",
            argv=("{python}", "-c", STUB.replace("{", "{{").replace("}", "}}"), "{port}", fault),
            env={"STUB_NOTE": "port {port}"},
            start_timeout_s=start_timeout_s,
        )

    return spec


@pytest.fixture
def oracle():
    rows = sample_rows(20)
    return Oracle(rows, np.ascontiguousarray(rows[:, :10]))
