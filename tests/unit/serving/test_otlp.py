"""Spans on their way to a collector that answers, refuses, or is not there."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from serving.config import TracingSettings
from serving.metrics import Metrics, stat
from serving.otlp import FLUSH_WITHIN_S, MAX_WAITING, SEND_TIMEOUT_S, open_tracer
from serving.tracing import Tracer
from tests.support.collector import Collector, collecting

BOUND_S = FLUSH_WITHIN_S + SEND_TIMEOUT_S + 20.0
"""Generous: the machine is shared. Without a bound of ours, the processor would try for half a minute a batch."""


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    found = Metrics(tmp_path)
    yield found
    found.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def settings(endpoint: str, **rest: object) -> TracingSettings:
    return TracingSettings.model_validate({"endpoint": endpoint, "sample_ratio": 1.0, **rest})


def trace_one(tracer: Tracer, model: str = "m/1") -> str:
    trace = tracer.begin(model, time.monotonic())
    assert trace is not None
    trace.finish(time.monotonic())
    return trace.trace_id


def sent(metrics: Metrics, result: str) -> float:
    metrics.flush()
    return stat(metrics.collect(), "gearshift_spans_total", result=result)


def test_closing_sends_what_waits(collector: Collector, metrics: Metrics) -> None:
    tracer = open_tracer(settings(collector.url, service_name="shifting"), metrics, time.monotonic)
    ids = {trace_one(tracer) for _ in range(5)}
    tracer.close()
    assert {span.trace_id.hex() for span in collector.spans} == ids
    assert collector.services == {"shifting"}
    assert (sent(metrics, "sent"), sent(metrics, "failed")) == (5, 0)


def test_a_collector_that_refuses_costs_its_spans_and_nothing_else(collector: Collector, metrics: Metrics) -> None:
    collector.status = 400
    tracer = open_tracer(settings(collector.url), metrics, time.monotonic)
    trace_one(tracer)
    tracer.close()
    assert collector.requests == 1
    assert (sent(metrics, "sent"), sent(metrics, "failed")) == (0, 1)


def test_a_collector_that_is_overloaded_does_not_hold_up_the_stop(collector: Collector, metrics: Metrics) -> None:
    collector.status = 503
    tracer = open_tracer(settings(collector.url), metrics, time.monotonic)
    trace_one(tracer)
    assert ends_in_time(tracer)
    assert sent(metrics, "failed") == 1


def test_a_collector_that_never_answers_does_not_hold_up_the_stop(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracer = open_tracer(settings(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"), metrics, time.monotonic)
        for _ in range(MAX_WAITING):  # several exports' worth
            trace_one(tracer)
        assert ends_in_time(tracer)


def ends_in_time(tracer: Tracer) -> bool:
    closing = threading.Thread(target=tracer.close, daemon=True)
    closing.start()
    closing.join(BOUND_S)
    return not closing.is_alive()


class Stuck(SpanExporter):
    """A collector that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.reached = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.reached.set()
        self.released.wait(60)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.released.set()


def test_a_stuck_collector_holds_up_nobody_and_memory_is_bounded(metrics: Metrics) -> None:
    exporter = Stuck()
    tracer = open_tracer(settings("http://unused"), metrics, time.monotonic, exporter)
    for _ in range(600):
        trace_one(tracer)
    assert exporter.reached.wait(60)
    for _ in range(2 * MAX_WAITING):  # returns although nothing is taken
        trace_one(tracer)
    assert ends_in_time(tracer)
    assert sent(metrics, "failed") <= 600 + MAX_WAITING
    assert sent(metrics, "failed") > 0


class Broken(SpanExporter):
    """An exporter with a defect."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("a defect")

    def shutdown(self) -> None:
        """Nothing to let go."""


def test_a_defect_of_the_exporter_is_counted(metrics: Metrics) -> None:
    tracer = open_tracer(settings("http://unused"), metrics, time.monotonic, Broken())
    trace_one(tracer)
    tracer.close()
    assert sent(metrics, "failed") == 1


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", ""])
def test_an_endpoint_is_an_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="http"):
        settings(endpoint)
