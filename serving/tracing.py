"""Traces of a share of the requests, in the words of OpenTelemetry.

Whether a request is traced is decided first, by its caller's `traceparent` or by one random number, and only those
chosen cost anything more. On its way a traced request only notes what is known anyway; spans are made of that later,
by whoever sends them (`serving.otlp`). The trace of a batch is its own, with a link to each traced request in it: it
belongs to all of them, and has no one parent.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from models.trace_context import TRACEPARENT
from serving.ports import Clock

Value = str | bool | int | float
Attributes = Mapping[str, Value]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, section 3.2; versions to come may have more fields."""
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = 0x01


class Traced(Protocol):
    """What hangs on a request that may be traced."""

    @property
    def trace(self) -> "Trace | None":
        """Its trace; None for most."""
        ...


class SpanId(NamedTuple):
    """A span among all there are, in hexadecimal digits: 32 and 16."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from, as its `traceparent` tells."""

    id: SpanId
    sampled: bool


def parse_traceparent(header: str) -> Caller | None:
    """What the header tells; None for one that is none."""
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == NO_TRACE or span_id == NO_SPAN:
        return None
    return Caller(SpanId(trace_id, span_id), bool(int(flags, 16) & _SAMPLED))


def trace_id_of(header: str | None) -> str:
    """The trace a caller counts its request to, traced here or not; empty when it tells none."""
    caller = None if header is None else parse_traceparent(header)
    return "" if caller is None else caller.id.trace_id


class Stage(NamedTuple):
    """A part of a trace that is over."""

    name: str
    start_s: float
    end_s: float
    attributes: Attributes
    link: SpanId | None
    """A span elsewhere that tells more."""


class Trace:
    """One traced request, or one batch with such requests: a span, and its stages as spans below it."""

    __slots__ = (
        "_emit", "attributes", "batch", "end_s", "epoch_ns", "error", "id", "links", "name", "parent", "serves",
        "stages", "start_s",
    )  # fmt: skip

    def __init__(
        self,
        emit: Callable[["Trace"], None],
        name: str,
        start_s: float,
        epoch_ns: int,
        attributes: dict[str, Value],
        *,
        parent: SpanId | None = None,
        links: tuple[SpanId, ...] = (),
        serves: bool = False,
    ) -> None:
        """`emit` takes it when it is over; `epoch_ns`: what turns the server's clock into the time of day.

        `serves`: whether it is the answering of a call from outside, maybe by the span `parent`.
        """
        self._emit = emit
        self.name = name
        trace_id = f"{random.getrandbits(128) or 1:032x}" if parent is None else parent.trace_id
        self.id = SpanId(trace_id, f"{random.getrandbits(64) or 1:016x}")
        self.start_s = start_s
        self.end_s = start_s
        self.epoch_ns = epoch_ns
        self.attributes = attributes
        self.parent = parent
        self.links = links
        self.serves = serves
        self.stages: list[Stage] = []
        self.error: str | None = None
        """How it failed."""
        self.batch: SpanId | None = None
        """Span of the batch the request was part of."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.id.trace_id

    @property
    def traceparent(self) -> str:
        """The `traceparent` of a call made on its behalf; also the `traceresponse` of its answer."""
        return f"00-{self.id.trace_id}-{self.id.span_id}-01"

    def stage(
        self, name: str, start_s: float, end_s: float, attributes: Attributes | None = None, link: SpanId | None = None
    ) -> None:
        """A part of it that is over; `link` is a span elsewhere that tells more."""
        self.stages.append(Stage(name, start_s, end_s, attributes or {}, link))

    def note(self, attributes: Attributes) -> None:
        """Add to what is known about it."""
        self.attributes.update(attributes)

    def finish(self, end_s: float, error: str = "") -> None:
        """It is over, and must not be changed any more; `error` says how it failed."""
        self.end_s = end_s
        self.error = error or None
        self._emit(self)


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
        emit: Callable[[Trace], None],
        clock: Clock,
        *,
        sample_ratio: float,
        follow_caller: bool,
        close: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`emit` takes traces that are over, and `close` sends those that wait; `chance` draws from [0, 1)."""
        self._emit = emit
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
        return Trace(
            self._emit,
            f"infer {model}",
            received_s,
            self._epoch_ns(),
            {"gearshift.model": model},
            parent=None if caller is None else caller.id,
            serves=True,
        )

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
        batch = Trace(
            self._emit,
            f"batch {model}",
            started_s,
            self._epoch_ns(),
            {"gearshift.model": model, "gearshift.variant": variant, "gearshift.rows": rows},
            links=tuple(trace.id for trace in traces),
        )
        for trace in traces:
            trace.batch = batch.id
        TRACEPARENT.set(batch.traceparent)
        return BatchTrace(batch, started_s)

    def _epoch_ns(self) -> int:
        return time.time_ns() - int(self._clock() * 1e9)
