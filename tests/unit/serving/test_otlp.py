"""Traces on their way to a collector that answers, refuses, or is not there."""

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.config import TracingSettings
from serving.metrics import Metrics, stat
from serving.otlp import PAUSES_S, SEND_TIMEOUT_S, Collector, open_tracer
from serving.outbox import FLUSH_WITHIN_S, MAX_WAITING
from serving.tracing import SpanId, Trace, Tracer
from tests.support.collector import Collector as Received
from tests.support.collector import collecting
from tests.support.spans import attributes, id_of, received

BOUND_S = FLUSH_WITHIN_S + SEND_TIMEOUT_S + 20.0
"""Generous: the machine is shared."""
EPOCH_NS = 1_800_000_000_000_000_000
CALLER = SpanId("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


class Patience(threading.Event):
    """A stop that never comes; the pauses are only noted."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return False


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    found = Metrics(tmp_path)
    yield found
    found.close()


@pytest.fixture
def collector() -> Iterator[Received]:
    with collecting() as found:
        yield found


def settings(endpoint: str, **rest: object) -> TracingSettings:
    return TracingSettings.model_validate({"endpoint": endpoint, "sample_ratio": 1.0, **rest})


def trace_one(tracer: Tracer, model: str = "m/1") -> str:
    trace = tracer.begin(model, time.monotonic())
    assert trace is not None
    trace.finish(time.monotonic())
    return trace.trace_id


def made(name: str = "infer m/1", **rest: Any) -> Trace:
    return Trace(lambda _: None, name, 1.0, EPOCH_NS, {}, **rest)


def sent(metrics: Metrics, result: str) -> float:
    metrics.flush()
    return stat(metrics.collect(), "gearshift_spans_total", result=result)


def test_closing_sends_what_waits(collector: Received, metrics: Metrics) -> None:
    tracer = open_tracer(settings(collector.url, service_name="shifting"), metrics, time.monotonic)
    ids = {trace_one(tracer) for _ in range(5)}
    tracer.close()
    assert {span.trace_id.hex() for span in collector.spans} == ids
    assert collector.services == {"shifting"}
    assert (sent(metrics, "sent"), sent(metrics, "failed")) == (5, 0)


def test_a_collector_that_refuses_costs_its_spans_and_nothing_else(collector: Received, metrics: Metrics) -> None:
    collector.status = 400
    tracer = open_tracer(settings(collector.url), metrics, time.monotonic)
    trace_one(tracer)
    tracer.close()
    assert collector.requests == 1
    assert (sent(metrics, "sent"), sent(metrics, "failed")) == (0, 1)


def test_a_collector_that_is_overloaded_does_not_hold_up_the_stop(collector: Received, metrics: Metrics) -> None:
    collector.status = 503
    tracer = open_tracer(settings(collector.url), metrics, time.monotonic)
    trace_one(tracer)
    assert ends_in_time(tracer)
    assert sent(metrics, "failed") == 1


def test_a_collector_that_never_answers_does_not_hold_up_the_stop(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracer = open_tracer(settings(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"), metrics, time.monotonic)
        for _ in range(MAX_WAITING):  # several messages' worth
            trace_one(tracer)
        assert ends_in_time(tracer)


def ends_in_time(tracer: Tracer) -> bool:
    closing = threading.Thread(target=tracer.close, daemon=True)
    closing.start()
    closing.join(BOUND_S)
    return not closing.is_alive()


@pytest.mark.parametrize(("status", "requests"), [(503, 1 + len(PAUSES_S)), (429, 1 + len(PAUSES_S)), (400, 1)])
def test_only_what_may_pass_is_tried_again(collector: Received, status: int, requests: int) -> None:
    collector.status = status
    patience = Patience()
    assert Collector(settings(collector.url)).send([made()], patience) == 0
    assert collector.requests == requests
    assert patience.pauses == list(PAUSES_S[: requests - 1])


def test_a_collector_that_comes_back_gets_the_message(collector: Received) -> None:
    collector.status = 503

    class Recovers(Patience):
        def wait(self, timeout: float | None = None) -> bool:
            collector.status = 200
            return super().wait(timeout)

    assert Collector(settings(collector.url)).send([made()], Recovers()) == 1
    assert [span.name for span in collector.spans] == ["infer m/1"]


def test_a_collector_that_is_away_is_told_once(collector: Received, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gearshift.otlp")
    sender = Collector(settings(collector.url))
    for status in (400, 400, 200, 200):
        collector.status = status
        sender.send([made()], Patience())
    assert [record.getMessage() for record in caplog.records] == [
        "the collector takes no spans: it answered 400. They are lost until it does",
        "the collector takes spans again",
    ]


@pytest.mark.parametrize(("answer", "taken"), [(b"", 3), (b"\xff", 3), (b"refused", 1)])
def test_a_collector_may_refuse_a_part(answer: bytes, taken: int) -> None:
    if answer == b"refused":
        answer = ExportTraceServiceResponse(partial_success={"rejected_spans": 2}).SerializeToString()
    with collecting(answer) as collector:
        assert Collector(settings(collector.url)).send([made() for _ in range(3)], Patience()) == taken


def test_the_wire_tells_all_there_is() -> None:
    link = SpanId("1" * 32, "2" * 16)
    trace = made(parent=CALLER, serves=True, links=(link,))
    trace.stage("queue", 1.25, 1.5, {"text": "\u00e9", "yes": True, "n": -3, "x": 0.5}, link)
    trace.note({"gearshift.rows": 2**40})
    trace.finish(3.0, "too late")
    root, stage = received(trace)
    assert id_of(root) == trace.id
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == CALLER
    assert (root.name, root.kind) == ("infer m/1", Span.SPAN_KIND_SERVER)
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (EPOCH_NS + 10**9, EPOCH_NS + 3 * 10**9)
    assert attributes(root) == {"gearshift.rows": 2**40}
    assert [id_of(one) for one in root.links] == [link]
    assert (root.status.code, root.status.message) == (root.status.STATUS_CODE_ERROR, "too late")
    assert root.flags == 0x301  # sampled; whether the parent is another process's is known, and it is
    assert (stage.trace_id, stage.parent_span_id) == (root.trace_id, root.span_id)
    assert len(stage.span_id) == 8
    assert stage.span_id != root.span_id
    assert (stage.name, stage.kind, stage.flags) == ("queue", Span.SPAN_KIND_INTERNAL, 0x101)
    assert (stage.start_time_unix_nano, stage.end_time_unix_nano) == (EPOCH_NS + 125 * 10**7, EPOCH_NS + 15 * 10**8)
    assert attributes(stage) == {"text": "\u00e9", "yes": True, "n": -3, "x": 0.5}
    assert [id_of(one) for one in stage.links] == [link]
    assert stage.status.code == stage.status.STATUS_CODE_UNSET


@pytest.mark.parametrize("value", ["\ud800", 2**63, np.float32(1.0)])
def test_what_cannot_be_told_costs_its_own_trace_only(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    bad = made("bad")
    bad.stage("queue", 0.0, 1.0, {"odd": value})
    assert [span.name for span in received(made("first"), bad, made("last"))] == ["first", "last"]
    assert "a trace could not be encoded" in caplog.text


def frame() -> dict[str, Any]:
    """What the resource says of the sender."""
    message, _ = Collector(settings("http://nowhere")).message([])
    (resource,) = ExportTraceServiceRequest.FromString(message.SerializeToString()).resource_spans
    return {pair.key: pair.value.string_value for pair in resource.resource.attributes}


def test_the_resource_says_who_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=blue,host.name=a%20b")
    told = frame()
    assert (told["service.name"], told["telemetry.sdk.name"]) == ("gearshift", "gearshift")
    assert (told["deployment.environment"], told["host.name"]) == ("blue", "a b")


def test_variables_name_headers_and_coding(monkeypatch: pytest.MonkeyPatch, collector: Received) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20all")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20traces,x-tenant=a")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert Collector(settings(f"{collector.url}?key=1")).send([made()], Patience()) == 1
    (headers,) = collector.headers
    assert (headers["authorization"], headers["x-tenant"]) == ("Bearer traces", "a")
    assert (headers["content-type"], headers["content-encoding"]) == ("application/x-protobuf", "gzip")
    assert collector.paths == ["/v1/traces?key=1"]
    assert len(collector.spans) == 1


@pytest.mark.parametrize(("coding", "undo"), [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("none", bytes)])
def test_codings_are_what_they_say(
    monkeypatch: pytest.MonkeyPatch, coding: str, undo: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", coding)
    bodies: list[bytes] = []
    sender = Collector(settings("http://nowhere/v1/traces"))

    class Wire:
        def exchange(self, *_: object, body: bytes, **__: object) -> Any:
            bodies.append(body)
            raise AssertionError("enough")

    monkeypatch.setattr(sender, "_endpoint", Wire())
    with pytest.raises(AssertionError, match="enough"):
        sender.send([made()], Patience())
    assert ExportTraceServiceRequest.FromString(undo(bodies[0])).resource_spans


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "none, gzip or deflate"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem", "certificate"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/nowhere.pem", "certificate"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Collector(settings("https://nowhere"))


def test_a_certificate_says_whom_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr("serving.otlp.ssl.create_default_context", _noting(asked))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/trusted.pem")
    Collector(settings("https://nowhere"))
    assert asked == ["/trusted.pem"]


def _noting(asked: list[str | None]) -> Callable[..., ssl.SSLContext]:
    def create(cafile: str | None = None) -> ssl.SSLContext:
        asked.append(cafile)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    return create


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", ""])
def test_an_endpoint_is_an_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="http"):
        settings(endpoint)
