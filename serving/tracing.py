"""Traces of a share of the requests, in the words of OpenTelemetry.

Whether a request is traced is decided first, by its caller's `traceparent` or by one random number, and only those
chosen cost anything more. Spans are made once their end is known, out of times that are taken anyway. The trace of
a batch is its own, with a link to each traced request in it: it belongs to all of them, and has no one parent.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace import Tracer as SpanMaker

from models.trace_context import TRACEPARENT
from serving.ports import Clock

Attributes = Mapping[str, str | bool | int | float]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, section 3.2; versions to come may have more fields."""
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16


class Traced(Protocol):
    """What hangs on a request that may be traced."""

    @property
    def trace(self) -> "Trace | None":
        """Its trace; None for most."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from, as its `traceparent` tells."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def context(self) -> SpanContext:
        """The caller's span."""
        flags = TraceFlags(TraceFlags.SAMPLED if self.sampled else TraceFlags.DEFAULT)
        return SpanContext(int(self.trace_id, 16), int(self.span_id, 16), is_remote=True, trace_flags=flags)


def parse_traceparent(header: str) -> Caller | None:
    """What the header tells; None for one that is none."""
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == NO_TRACE or span_id == NO_SPAN:
        return None
    return Caller(trace_id, span_id, bool(int(flags, 16) & TraceFlags.SAMPLED))


def trace_id_of(header: str | None) -> str:
    """The trace a caller counts its request to, traced here or not; empty when it tells none."""
    caller = None if header is None else parse_traceparent(header)
    return "" if caller is None else caller.trace_id


class Trace:
    """One traced request, or one batch with such requests: a span, and its stages as spans below it."""

    __slots__ = ("_epoch_ns", "_maker", "_span", "batch", "trace_id")

    def __init__(self, maker: SpanMaker, span: Span, epoch_ns: int) -> None:
        """`epoch_ns`: what turns the server's clock into the time of day."""
        self._maker = maker
        self._span = span
        self._epoch_ns = epoch_ns
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        """32 hexadecimal digits."""
        self.batch: SpanContext | None = None
        """Span of the batch the request was part of."""

    @property
    def context(self) -> SpanContext:
        """What others need to refer to it."""
        return self._span.get_span_context()

    @property
    def traceparent(self) -> str:
        """The `traceparent` of a call made on its behalf; also the `traceresponse` of its answer."""
        context = self.context
        return f"00-{self.trace_id}-{format_span_id(context.span_id)}-01"

    def stage(
        self,
        name: str,
        start_s: float,
        end_s: float,
        attributes: Attributes | None = None,
        link: SpanContext | None = None,
    ) -> None:
        """A part of it that is over; `link` is a span elsewhere that tells more."""
        span = self._maker.start_span(
            name,
            context=set_span_in_context(self._span),
            attributes=attributes,
            links=[] if link is None else [Link(link)],
            start_time=self._epoch_ns + int(start_s * 1e9),
        )
        span.end(self._epoch_ns + int(max(start_s, end_s) * 1e9))

    def note(self, attributes: Attributes) -> None:
        """Add to what is known about it."""
        self._span.set_attributes(attributes)

    def finish(self, end_s: float, error: str = "") -> None:
        """It is over; `error` says how it failed."""
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(self._epoch_ns + int(end_s * 1e9))


class BatchTrace:
    """A traced batch that runs."""

    __slots__ = ("_started_s", "_trace")

    def __init__(self, trace: Trace, started_s: float) -> None:
        self._trace = trace
        self._started_s = started_s

    def end(self, merged_s: float, ended_s: float, error: BaseException | None) -> None:
        """It is over; its requests were one input from `merged_s` on."""
        self._trace.stage("compute", merged_s, ended_s)
        self._trace.note({"gearshift.merge_ms": round((merged_s - self._started_s) * 1e3, 3)})
        self._trace.finish(ended_s, "" if error is None else type(error).__name__)


class Tracer:
    """Chooses the requests that are traced."""

    def __init__(
        self,
        maker: SpanMaker,
        clock: Clock,
        *,
        sample_ratio: float,
        follow_caller: bool,
        close: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`close` sends what waits, bounded in time; `chance` draws from [0, 1)."""
        self._maker = maker
        self._clock = clock
        self._ratio = sample_ratio
        self._follow = follow_caller
        self._chance = chance
        self.close = close

    def begin(self, model: str, received_s: float, traceparent: str | None = None) -> Trace | None:
        """The trace of a request for `model` ("name/version"); None when it is not one of those chosen."""
        caller = None
        if traceparent is not None:
            caller = parse_traceparent(traceparent)
        if caller is not None and self._follow:
            if not caller.sampled:
                return None
        elif self._chance() >= self._ratio:
            return None
        parent = None if caller is None else set_span_in_context(NonRecordingSpan(caller.context))
        return self._open(f"infer {model}", received_s, SpanKind.SERVER, {"gearshift.model": model}, parent=parent)

    def batch(
        self, members: Iterable[Traced], model: str, variant: str, rows: int, started_s: float
    ) -> "BatchTrace | None":
        """The trace of a batch that was started; None when no request in it is traced.

        From now on, calls made in this context go on in the trace of the batch.
        """
        traces = [member.trace for member in members if member.trace is not None]
        if not traces:
            TRACEPARENT.set(None)
            return None
        batch = self._open(
            f"batch {model}",
            started_s,
            SpanKind.INTERNAL,
            {"gearshift.model": model, "gearshift.variant": variant, "gearshift.rows": rows},
            links=[Link(trace.context) for trace in traces],
        )
        for trace in traces:
            trace.batch = batch.context
        TRACEPARENT.set(batch.traceparent)
        return BatchTrace(batch, started_s)

    def _open(
        self,
        name: str,
        start_s: float,
        kind: SpanKind,
        attributes: Attributes,
        *,
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Trace:
        epoch_ns = time.time_ns() - int(self._clock() * 1e9)
        span = self._maker.start_span(
            name,
            context=parent or Context(),  # never the loop's own: it may be another request's
            kind=kind,
            attributes=attributes,
            links=links,
            start_time=epoch_ns + int(start_s * 1e9),
        )
        return Trace(self._maker, span, epoch_ns)
