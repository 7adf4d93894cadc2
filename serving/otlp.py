"""Traces on their way to a collector, by OTLP over HTTP. Imported only where tracing is on.

Messages are made straight from what a trace holds: the spans of OpenTelemetry's SDK, made and then made over, cost ten
times as much. Where they go besides the endpoint's address is told by OpenTelemetry's own variables.
"""

import gzip
import logging
import os
import random
import ssl
import threading
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, SpanFlags, Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.util.re import parse_env_headers

from models.endpoint import Endpoint, EndpointError
from serving.config import TracingSettings
from serving.metrics import Metrics
from serving.outbox import Outbox, Send
from serving.ports import Clock
from serving.tracing import Attributes, SpanId, Trace, Tracer, Value

SEND_TIMEOUT_S = 2.0
PAUSES_S = (1.0, 3.0)
"""Between the tries of one message, where the collector is away or asks for it."""
MAX_REPLY_BYTES = 64 * 1024
AGAIN = frozenset((429, 502, 503, 504))
"""Answers after which a message may be sent again, by the specification of OTLP."""

_SAMPLED = 0x01
_OWN = _SAMPLED | SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _OWN | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_FIELDS = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}

log = logging.getLogger("gearshift.otlp")


def open_tracer(settings: TracingSettings, metrics: Metrics, clock: Clock, send: Send | None = None) -> Tracer:
    """The tracer the settings ask for. `send` replaces the way to `settings.endpoint`.

    Raises `ValueError` for a variable of OpenTelemetry's that cannot be followed.
    """
    outbox = Outbox(send or Collector(settings).send, metrics)
    return Tracer(
        outbox.put,
        clock,
        sample_ratio=settings.sample_ratio,
        follow_caller=settings.follow_caller,
        close=outbox.close,
    )


class Collector:
    """Where traces go: one address, by one thread."""

    def __init__(self, settings: TracingSettings) -> None:
        """Reads OTEL_RESOURCE_ATTRIBUTES, and of OTEL_EXPORTER_OTLP_... (or ..._TRACES_...) HEADERS, CERTIFICATE,
        CLIENT_CERTIFICATE, CLIENT_KEY and COMPRESSION."""
        if settings.endpoint is None:
            raise ValueError("there is no endpoint to send traces to")
        address = urlsplit(settings.endpoint)
        self._path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        headers = {
            "user-agent": f"gearshift/{version('gearshift')}",
            **parse_env_headers(_variable("HEADERS"), liberal=True),
            "content-type": "application/x-protobuf",
        }
        coding = _variable("COMPRESSION").strip().lower()
        if coding not in {"", "none", *_COMPRESS}:
            raise ValueError(f"OTEL_EXPORTER_OTLP_COMPRESSION is '{coding}': expected none, gzip or deflate")
        self._compress = _COMPRESS.get(coding)
        if self._compress is not None:
            headers["content-encoding"] = coding
        self._endpoint = Endpoint(
            f"{address.scheme}://{address.netloc}", headers, max_reply_bytes=MAX_REPLY_BYTES, tls=_tls()
        )
        self._frame = _frame(settings.service_name)
        self._away = False

    def send(self, traces: Sequence[Trace], closing: threading.Event) -> int:
        """How many of their spans the collector took. Tries again where that may help, until `closing` is set."""
        message, spans = self.message(traces)
        body = message.SerializeToString()
        if self._compress is not None:
            body = self._compress(body)
        for pause_s in (*PAUSES_S, None):
            reason = "it cannot be reached"
            again = True
            try:
                reply = self._endpoint.exchange("POST", self._path, within_s=SEND_TIMEOUT_S, body=body)
            except EndpointError as error:
                reason = str(error)
            else:
                if 200 <= reply.status < 300:
                    return self._taken(spans, reply.body)
                reason, again = f"it answered {reply.status}", reply.status in AGAIN
            if not again or pause_s is None or closing.wait(pause_s):
                break
        if not self._away:
            self._away = True
            log.warning("the collector takes no spans: %s. They are lost until it does", reason)
        return 0

    def message(self, traces: Sequence[Trace]) -> tuple[ExportTraceServiceRequest, int]:
        """What is sent of these traces, and how many spans are in it: a trace that cannot be told is left out."""
        message = ExportTraceServiceRequest()
        resource = message.resource_spans.add()
        resource.CopyFrom(self._frame)
        spans = resource.scope_spans[0].spans
        for trace in traces:
            before = len(spans)
            try:
                _add(spans, trace)
            except (ValueError, TypeError, KeyError):  # no Unicode, beyond 64 bits, of another kind
                del spans[before:]
                log.exception("a trace could not be encoded")
        return message, len(spans)

    def _taken(self, spans: int, reply: bytes) -> int:
        if self._away:
            self._away = False
            log.info("the collector takes spans again")
        try:
            refused = int(ExportTraceServiceResponse.FromString(reply).partial_success.rejected_spans)
        except DecodeError:
            return spans  # it said yes
        if refused:
            log.warning("the collector refused %d spans of %d", refused, spans)
        return max(0, spans - refused)


def _variable(name: str) -> str:
    """What OpenTelemetry's variables say for traces, or for all it sends."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")


def _tls() -> ssl.SSLContext | None:
    """Whom to trust, and who we are, where a variable says so; None for the system's own."""
    trusted, certificate, key = _variable("CERTIFICATE"), _variable("CLIENT_CERTIFICATE"), _variable("CLIENT_KEY")
    if not trusted and not certificate:
        return None
    try:
        context = ssl.create_default_context(cafile=trusted or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except OSError as error:
        raise ValueError(f"a certificate named by OTEL_EXPORTER_OTLP_... cannot be used: {error}") from error
    return context


def _frame(service: str) -> ResourceSpans:
    """What is the same in all messages: who sends them."""
    build = version("gearshift")
    about = {
        "service.name": service,
        "service.version": build,
        # The specification reserves the name `opentelemetry` for spans that its own SDK made.
        "telemetry.sdk.name": "gearshift",
        "telemetry.sdk.version": build,
    }
    frame = ResourceSpans()
    for name, value in Resource.create(about).attributes.items():
        frame.resource.attributes.add(
            **_attribute(name, value if isinstance(value, str | bool | int | float) else str(value))
        )
    scope = frame.scope_spans.add().scope
    scope.name, scope.version = "gearshift", build
    return frame


def _add(spans: Any, trace: Trace) -> None:  # the containers of protobuf have no type of their own
    trace_id = bytes.fromhex(trace.id.trace_id)
    span_id = bytes.fromhex(trace.id.span_id)
    epoch_ns = trace.epoch_ns
    spans.add(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=None if trace.parent is None else bytes.fromhex(trace.parent.span_id),
        name=trace.name,
        kind=Span.SPAN_KIND_SERVER if trace.serves else Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=epoch_ns + int(trace.start_s * 1e9),
        end_time_unix_nano=epoch_ns + int(max(trace.start_s, trace.end_s) * 1e9),
        attributes=_attributes(trace.attributes),
        links=[_link(link) for link in trace.links],
        status=None if trace.error is None else {"code": Status.STATUS_CODE_ERROR, "message": trace.error},
        flags=_OWN if trace.parent is None else _REMOTE,
    )
    for stage in trace.stages:
        spans.add(
            trace_id=trace_id,
            span_id=(random.getrandbits(64) or 1).to_bytes(8, "big"),
            parent_span_id=span_id,
            name=stage.name,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=epoch_ns + int(stage.start_s * 1e9),
            end_time_unix_nano=epoch_ns + int(max(stage.start_s, stage.end_s) * 1e9),
            attributes=_attributes(stage.attributes),
            links=None if stage.link is None else [_link(stage.link)],
            flags=_OWN,
        )


def _attributes(attributes: Attributes) -> list[dict[str, object]]:
    return [_attribute(key, value) for key, value in attributes.items()]


def _attribute(key: str, value: Value) -> dict[str, object]:
    return {"key": key, "value": {_FIELDS[type(value)]: value}}


def _link(span: SpanId) -> dict[str, object]:
    return {"trace_id": bytes.fromhex(span.trace_id), "span_id": bytes.fromhex(span.span_id), "flags": _OWN}
