"""Spans in memory instead of on their way to a collector."""

from collections.abc import Callable

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving.ports import Clock
from serving.tracing import Tracer


class Spans:
    """A tracer, and what it has made."""

    def __init__(
        self, clock: Clock, *, ratio: float = 1.0, follow: bool = True, chance: Callable[[], float] = lambda: 0.5
    ) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(resource=Resource.create({}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = Tracer(
            provider.get_tracer("test"), clock, sample_ratio=ratio, follow_caller=follow, chance=chance
        )

    @property
    def all(self) -> list[ReadableSpan]:
        """Those that have ended, in this order."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        (span,) = [span for span in self.all if span.name == name]
        return span

    def below(self, parent: ReadableSpan) -> dict[str, ReadableSpan]:
        """The spans whose parent it is, by name."""
        return {span.name: span for span in self.all if span.parent == parent.context}


def seconds(span: ReadableSpan) -> float:
    """How long it took."""
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9
