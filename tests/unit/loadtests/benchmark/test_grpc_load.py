from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from loadtests.benchmark.grpc_load import GrpcioLoad, _call_for, parse_h2load
from loadtests.benchmark.oracle import Oracle, WrongAnswerError
from loadtests.benchmark.servers import Place, ServerSpec
from loadtests.benchmark.wire import INFER_METHOD, AnswerError, encode_request, grpc_output, grpc_request
from loadtests.benchmark.wrk import WrkError
from loadtests.fixtures import OUTPUT_NAME, sample_rows

PRINTED = """\
finished in 2.00s, 150.00 req/s, 90.00KB/s
requests: 300 total, 310 started, 300 done, 297 succeeded, 3 failed, 3 errored, 0 timeout
status codes: 297 2xx, 0 3xx, 0 4xx, 3 5xx
traffic: 100.00KB (102400) total, 10.00KB (10240) headers (space savings 6.10%), 87.89KB (90000) data
"""
LOGGED = "".join(f"1732000000000\t200\t{microseconds}\n" for microseconds in range(1000, 301_000, 1000))


def test_what_h2load_prints_and_logs_is_read():
    result = parse_h2load(PRINTED, LOGGED, 2.0, answer_bytes=300)
    assert (result.requests, result.rps, result.errors) == (300, 150.0, {"status": 3})
    assert (result.p50_s, result.p99_s) == (0.150, 0.297)


def test_answers_without_content_are_errors():
    assert parse_h2load(PRINTED, LOGGED, 2.0, answer_bytes=450).errors == {"status": 103}
    assert parse_h2load(PRINTED, LOGGED, 2.0, answer_bytes=302).errors == {"status": 3}, "lengths vary a little"


def test_output_without_totals_is_an_error():
    with pytest.raises(WrkError, match="connection refused"):
        parse_h2load("connection refused", "", 2.0, 300)


def test_a_request_goes_over_the_wire_with_its_prefix():
    payload = encode_request(sample_rows(1), "grpc")
    assert payload.body[0] == 0
    assert int.from_bytes(payload.body[1:5]) == len(payload.body) - 5
    assert payload.body[5:] == grpc_request(sample_rows(1)).SerializeToString()


def test_only_servers_that_speak_grpc_are_asked_so():
    place = Place(None, 1, 2, 3)  # type: ignore[arg-type]
    plain, both = ServerSpec("a", "", ()), ServerSpec("b", "", (), grpc=True)
    assert plain.formats(["json", "grpc"]) == ["json"]
    assert both.formats(["json", "grpc"]) == ["json", "grpc"]
    assert both.target(place, "grpc") == "grpc://127.0.0.1:3"
    assert both.target(place, "json").startswith("http://127.0.0.1:1/")


@pytest.fixture
def answering() -> Any:
    """Starts a server that answers with what a function makes of a request."""
    servers = []

    def start(answer: Any) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(
            answer, service_pb2.ModelInferRequest.FromString, service_pb2.ModelInferResponse.SerializeToString
        )
        service, method = INFER_METHOD.strip("/").split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


def doubled(request: Any, _: Any) -> Any:
    rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(request.inputs[0].shape) * 2
    answer = service_pb2.ModelInferResponse(raw_output_contents=[rows.tobytes()])
    answer.outputs.add(name=OUTPUT_NAME, datatype="FP32", shape=rows.shape)
    return answer


def failing(_: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "not now")


def test_the_oracle_asks_over_grpc_too(answering: Any):
    rows = sample_rows(8)
    url = f"grpc://{answering(doubled)}"
    Oracle(rows, rows * 2).check(url, "grpc")
    with pytest.raises(WrongAnswerError, match="grpc: row 0 is off by"):
        Oracle(rows, rows * 3).check(url, "grpc")
    with pytest.raises(WrongAnswerError, match="grpc: UNAVAILABLE: not now"):
        Oracle(rows, rows).check(f"grpc://{answering(failing)}", "grpc")


def test_an_answer_without_the_output_is_told():
    with pytest.raises(AnswerError):
        grpc_output(service_pb2.ModelInferResponse())


async def test_the_bundled_generator_counts_answers_and_failures(answering: Any):
    body = encode_request(sample_rows(1), "grpc").body
    latencies_s, failed = await _call_for(answering(doubled), body[5:], 3, 0.2)
    assert len(latencies_s) >= 3
    assert failed == 0
    latencies_s, failed = await _call_for(answering(failing), body[5:], 2, 0.2)
    assert failed == len(latencies_s) >= 2


def test_the_bundled_generator_runs_in_processes_of_its_own(answering: Any):
    result = GrpcioLoad().run(f"grpc://{answering(doubled)}", encode_request(sample_rows(1), "grpc"), 4, 1)
    assert result.requests > 4
    assert result.errors == {}
    assert 0 < result.p50_s <= result.p99_s
