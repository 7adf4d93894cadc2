"""Traces over the wire: a caller's context in, our own out, and a collector that may be gone."""

import json
import re
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.integration.conftest import Starter
from tests.integration.harness.servers import Server, free_port
from tests.integration.harness.wire import scale_request
from tests.support.collector import Collector, collecting

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY = scale_request(np.ones((2, 4)))

pytestmark = pytest.mark.server


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def traced(start: Starter, endpoint: str, *, ratio: float = 0.0) -> Server:
    chosen = {
        "GEARSHIFT_TRACING__ENDPOINT": endpoint,
        "GEARSHIFT_TRACING__SAMPLE_RATIO": str(ratio),
        "GEARSHIFT_LOG__REQUEST_SHARE": "1",
        "GEARSHIFT_LOG__FORMAT": "json",
    }
    return start("--engine", "inprocess", env=chosen)


def ask(server: Server, model: str = "scale", **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/{model}/infer", json=BODY, headers=headers, timeout=60)


def traceparent(trace_id: str = TRACE_ID, *, sampled: bool = True) -> str:
    return f"00-{trace_id}-{SPAN_ID}-{int(sampled):02x}"


def by_name(spans: list[Span], trace_id: str) -> dict[str, Span]:
    return {span.name: span for span in spans if span.trace_id.hex() == trace_id}


def attributes(span: Span) -> dict[str, str | int | float | bool]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


def request_lines(server: Server) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("logger") == "gearshift.request"]


def test_a_callers_trace_goes_on_through_the_batch(start: Starter, collector: Collector) -> None:
    server = traced(start, collector.url)
    answer = ask(server, traceparent=traceparent(), **{"x-request-id": "mine"})
    assert answer.status_code == 200
    assert re.fullmatch(rf"00-{TRACE_ID}-[0-9a-f]{{16}}-01", answer.headers["traceresponse"])
    refused = ask(server, traceparent=traceparent("1" * 32), latency_budget_ms="0.0001")
    assert refused.status_code == 422
    assert "1" * 32 in refused.headers["traceresponse"]
    for quiet in (ask(server), ask(server, traceparent=traceparent(sampled=False))):
        assert quiet.status_code == 200
        assert "traceresponse" not in quiet.headers
    assert server.stop() == 0  # which sends what waits

    own = by_name(collector.spans, TRACE_ID)
    root = own.pop("infer scale/1")
    assert root.parent_span_id.hex() == SPAN_ID
    assert root.span_id.hex() == answer.headers["traceresponse"].split("-")[2]
    assert set(own) == {"queue", "batch"}
    assert {"gearshift.decode_ms", "gearshift.encode_ms"} <= attributes(root).keys()
    assert {span.parent_span_id for span in own.values()} == {root.span_id}
    for span in own.values():
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    told = answer.json()["parameters"]
    assert attributes(root)["gearshift.variant"] == told["variant"]
    assert attributes(root)["gearshift.request_id"] == "mine"
    assert own["queue"].end_time_unix_nano - own["queue"].start_time_unix_nano == pytest.approx(
        told["queue_ms"] * 1e6, abs=2e3
    )

    (linked,) = own["batch"].links
    batches = by_name(collector.spans, linked.trace_id.hex())
    assert set(batches) == {"batch scale/1", "compute"}
    batch = batches["batch scale/1"]
    assert batch.span_id == linked.span_id
    assert [link.span_id for link in batch.links] == [root.span_id]
    assert attributes(batch)["gearshift.rows"] == told["batch_rows"]

    failure = by_name(collector.spans, "1" * 32)["infer scale/1"]
    assert failure.status.code == failure.status.STATUS_CODE_ERROR
    assert "latency" in failure.status.message
    traces = {span.trace_id.hex() for span in collector.spans}
    assert traces == {TRACE_ID, "1" * 32, linked.trace_id.hex()}

    first, second, *rest = request_lines(server)
    assert (first["request_id"], first["trace_id"], first["status"]) == ("mine", TRACE_ID, 200)
    assert (second["trace_id"], second["status"]) == ("1" * 32, 422)
    assert [line.get("trace_id") for line in rest] == [None, TRACE_ID]  # the caller's, though it is not sampled


def test_grpc_metadata_carries_the_context(start: Starter, collector: Collector) -> None:
    server = traced(start, collector.url)
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    with triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        client.infer("scale", [tensor], headers={"traceparent": traceparent()})
    assert server.stop() == 0
    own = by_name(collector.spans, TRACE_ID)
    assert set(own) == {"infer scale/1", "queue", "batch"}
    assert own["infer scale/1"].parent_span_id.hex() == SPAN_ID
    assert attributes(own["infer scale/1"])["gearshift.status"] == "OK"


def test_a_collector_that_is_gone_is_not_noticed_by_callers(start: Starter) -> None:
    server = traced(start, f"http://127.0.0.1:{free_port()}/v1/traces", ratio=1.0)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(300):
            answer = client.post("/v2/models/scale/infer", json=BODY)
            assert answer.status_code == 200
            assert "traceresponse" in answer.headers
    assert server.stop() == 0
