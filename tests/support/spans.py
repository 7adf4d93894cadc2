"""Spans in memory instead of on their way to a collector: as it would receive them."""

from collections.abc import Callable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.config import TracingSettings
from serving.otlp import Collector
from serving.ports import Clock
from serving.tracing import SpanId, Trace, Tracer


class Spans:
    """A tracer, and what it has made."""

    def __init__(
        self, clock: Clock, *, ratio: float = 1.0, follow: bool = True, chance: Callable[[], float] = lambda: 0.5
    ) -> None:
        self._traces: list[Trace] = []
        self.tracer = Tracer(self._traces.append, clock, sample_ratio=ratio, follow_caller=follow, chance=chance)

    @property
    def all(self) -> list[Span]:
        """Those of the traces that are over."""
        return received(*self._traces)

    def named(self, name: str) -> Span:
        """The only span of this name."""
        (span,) = [span for span in self.all if span.name == name]
        return span

    def below(self, parent: Span) -> dict[str, Span]:
        """The spans whose parent it is, by name."""
        return {
            span.name: span
            for span in self.all
            if (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)
        }


def received(*traces: Trace) -> list[Span]:
    """The spans that a collector reads of the message with these traces."""
    message, _ = Collector(TracingSettings(endpoint="http://nowhere")).message(traces)
    (resource,) = ExportTraceServiceRequest.FromString(message.SerializeToString()).resource_spans
    (scope,) = resource.scope_spans
    return list(scope.spans)


def id_of(span: Span | Span.Link) -> SpanId:
    """Which span it is, or leads to."""
    return SpanId(span.trace_id.hex(), span.span_id.hex())


def seconds(span: Span) -> float:
    """How long it lasted."""
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def attributes(span: Span) -> dict[str, str | bool | int | float]:
    """What it tells."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}
