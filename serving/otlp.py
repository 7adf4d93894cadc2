"""Spans on their way to a collector, by OTLP over HTTP. Imported only where tracing is on."""

import threading
from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from serving.config import TracingSettings
from serving.metrics import Metrics
from serving.ports import Clock
from serving.tracing import Tracer

MAX_WAITING = 2048
"""Spans that wait for the collector; more are dropped."""
MAX_BATCH = 512
SEND_EVERY_S = 2.0
SEND_TIMEOUT_S = 2.0
FLUSH_WITHIN_S = 2.0
"""What a stop spends on spans that wait: a collector that is gone must not hold up a drain."""


def open_tracer(
    settings: TracingSettings, metrics: Metrics, clock: Clock, exporter: SpanExporter | None = None
) -> Tracer:
    """The tracer the settings ask for. `exporter` replaces the one to `settings.endpoint`.

    Headers, certificates and attributes of the resource come from OpenTelemetry's own variables
    (OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_RESOURCE_ATTRIBUTES).
    """
    if exporter is None:
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=SEND_TIMEOUT_S)
    counted = _Counted(exporter, metrics)
    processor = BatchSpanProcessor(
        counted,
        max_queue_size=MAX_WAITING,
        schedule_delay_millis=SEND_EVERY_S * 1e3,
        max_export_batch_size=MAX_BATCH,
    )
    resource = Resource.create({"service.name": settings.service_name, "service.version": version("gearshift")})
    # What is sampled is decided before a span is made. The provider is ended with the replica, not with the process.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)

    def close() -> None:
        flushing = threading.Thread(target=processor.force_flush, name="gearshift-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_WITHIN_S)
        counted.shutdown()  # before the processor, which would try to send the rest for half a minute
        provider.shutdown()

    return Tracer(
        provider.get_tracer("gearshift", version("gearshift")),
        clock,
        sample_ratio=settings.sample_ratio,
        follow_caller=settings.follow_caller,
        close=close,
    )


class _Counted(SpanExporter):
    """An exporter whose successes and failures are in the metrics."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        self._exporter = exporter
        self._sent = metrics.counter("gearshift_spans_total", "sent")
        self._failed = metrics.counter("gearshift_spans_total", "failed")
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Runs in the processor's thread, which alone adds to these counters."""
        try:
            result = self._exporter.export(spans)
        except Exception:
            self._failed.value += len(spans)
            raise
        counter = self._sent if result is SpanExportResult.SUCCESS else self._failed
        counter.value += len(spans)
        return result

    def shutdown(self) -> None:
        """Give up on what is on its way; once."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """The exporter holds nothing back."""
        return self._exporter.force_flush(timeout_millis)
