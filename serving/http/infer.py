"""The inference route: bytes -> `Call` -> gateway -> bytes. Plain ASGI, because every request passes here."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.codec.budget import HEADERS as BUDGET_HEADERS
from serving.codec.budget import MAX_LATENCY_MS, peek_latency_s, read_budget
from serving.codec.compression import compress, decompress
from serving.codec.limits import CodecLimits
from serving.codec.merge import batch_key
from serving.codec.request import InferRequest, decode_request
from serving.codec.response import encode_response
from serving.core.errors import GearshiftError, InternalError, InvalidRequest, PayloadTooLarge
from serving.door import OFF_LOOP_BYTES, Door, is_request_id, told
from serving.gateway import Call, Gateway, Result
from serving.http.cycle import ON_DISCONNECT_KEY
from serving.http.errors import error_body, error_headers, status_of
from serving.http.protocol import RECEIVED_KEY
from serving.lane import Lane
from serving.metrics import Metrics
from serving.observer import Watched
from serving.ports import Clock
from serving.tracing import trace_id_of

Scope = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]

MAX_LATENCY_S = MAX_LATENCY_MS / 1e3

log = logging.getLogger("gearshift.http")


@dataclass(slots=True)
class _Head:
    """The headers that matter to an inference."""

    request_id: bytes = b""
    content_length: int | None = None
    json_length: int | None = None
    content_encoding: str | None = None
    accept_encoding: str | None = None
    budget: dict[str, str] | None = None
    traceparent: str | None = None
    watched: Watched | None = None


class InferRoute:
    """POST /v2/models/{model}[/versions/{version}]/infer."""

    def __init__(self, gateway: Gateway, door: Door, limits: CodecLimits, metrics: Metrics, clock: Clock) -> None:
        self._gateway = gateway
        self._door = door
        self._limits = limits
        self._max_body = max(limits.max_json_bytes, limits.max_binary_bytes)
        self._metrics = metrics
        self._clock = clock
        self._observer = door.observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, exactly one response is sent."""
        head = _Head()
        try:
            _read_head(scope["headers"], head)
            with self._gateway.lane(*_target(scope)) as lane:
                body = await self._body(receive, head)
                if body is None:
                    return  # the caller left before it had sent everything
                received_s = scope.get(RECEIVED_KEY) or self._clock()
                if self._observer is not None:
                    head.watched = self._observer.begin(lane, received_s, head.traceparent)
                await self._door.enter(lane, _peek(lane, body, head), received_s)
                request = await self._decode(lane, body, head)
                result = await self._gateway.infer(
                    lane, self._call(lane, request, head, received_s, len(body)), _disconnect_hook(scope)
                )
                content, headers = await self._encode(lane, request, result, head)
        except GearshiftError as error:
            await self._refuse(error, head, send)
            return
        except Exception:
            request_id = self._request_id(head).decode("latin-1")
            log.exception("inference failed", extra=_named(request_id, head))
            await self._refuse(InternalError(f"internal error (request {request_id})"), head, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        if head.watched is not None:
            head.watched.end(self._request_id(head).decode("latin-1"), 200, result)

    async def refuse(self, error: GearshiftError, scope: Scope, send: Send) -> None:
        """Answer what never came to a route: its body is not read."""
        head = _Head()
        for name, value in scope["headers"]:
            if name == b"x-request-id" and is_request_id(value):
                head.request_id = value
        await self._refuse(error, head, send)

    async def _body(self, receive: Receive, head: _Head) -> bytes | None:
        """The whole body, bounded; None when the caller went away while sending."""
        if head.content_length is not None and head.content_length > self._max_body:
            raise PayloadTooLarge(f"the body is larger than {self._max_body} bytes")
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            return bytes(message.get("body", b""))
        chunks = []
        size = 0
        while message["type"] == "http.request":
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                raise PayloadTooLarge(f"the body is larger than {self._max_body} bytes")
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await receive()
        return None

    async def _decode(self, lane: Lane, body: bytes, head: _Head) -> InferRequest:
        started_s = self._clock()
        if len(body) > OFF_LOOP_BYTES or head.content_encoding is not None:
            request = await asyncio.to_thread(self._decode_now, lane, body, head)
        else:
            request = self._decode_now(lane, body, head)
        lane.decode_s.value += self._clock() - started_s
        if head.watched is not None:
            head.watched.stage("decode", started_s)
        return request

    def _decode_now(self, lane: Lane, body: bytes, head: _Head) -> InferRequest:
        if head.content_encoding is not None:
            body = decompress(body, head.content_encoding, self._max_body)
        return decode_request(body, header_length=head.json_length, family=lane.family, limits=self._limits)

    def _call(self, lane: Lane, request: InferRequest, head: _Head, received_s: float, size: int) -> Call:
        return Call(
            inputs=request.inputs,
            rows=request.rows,
            budget=read_budget(lane.default_budget, request.parameters, head.budget),
            received_s=received_s,
            size_bytes=size,
            group=batch_key(request.inputs, lane.paddings) if lane.free_axes else None,
            trace=None if head.watched is None else head.watched.trace,
        )

    async def _encode(
        self, lane: Lane, request: InferRequest, result: Result, head: _Head
    ) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        started_s = self._clock()
        size = sum(array.nbytes for array in result.outputs.values())
        parameters = told(result)
        if size > OFF_LOOP_BYTES:
            body, json_length = await asyncio.to_thread(
                encode_response, lane.family, request, result.outputs, parameters
            )
        else:
            body, json_length = encode_response(lane.family, request, result.outputs, parameters)
        headers = [(b"x-request-id", self._request_id(head))]
        if json_length is None:
            headers.append((b"content-type", b"application/json"))
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((b"inference-header-content-length", str(json_length).encode()))
        if head.accept_encoding is not None:
            body, coding = compress(body, head.accept_encoding)
            headers.append((b"vary", b"accept-encoding"))
            if coding is not None:
                headers.append((b"content-encoding", coding.encode()))
        headers.append((b"content-length", str(len(body)).encode()))
        lane.encode_s.value += self._clock() - started_s
        if head.watched is not None:
            head.watched.stage("encode", started_s)
            headers += _trace_headers(head.watched)
        return body, headers

    async def _refuse(self, error: GearshiftError, head: _Head, send: Send) -> None:
        status = status_of(error)
        self._metrics.counter("gearshift_refused_total", str(status)).value += 1
        # What callers do wrong, or load makes impossible, is counted; a log line each would only add to the load.
        level = logging.WARNING if status in (500, 503) else logging.DEBUG
        if log.isEnabledFor(level):
            request_id = self._request_id(head).decode("latin-1")
            log.log(level, "refused: %s", error, extra=_named(request_id, head) | {"status": status})
        body = error_body(str(error))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self._request_id(head)),
            *error_headers(error),
        ]
        if head.watched is not None:
            headers += _trace_headers(head.watched)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if head.watched is not None:
            head.watched.end(self._request_id(head).decode("latin-1"), status, error=str(error))

    def _request_id(self, head: _Head) -> bytes:
        if not head.request_id:
            head.request_id = self._door.new_id().encode()
        return head.request_id


def is_inference(scope: Scope) -> bool:
    """Whether the route answers this scope: POST on an infer path of a model or of one of its versions."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    parts = scope["path"].split("/")
    return (
        parts[-1] == "infer"
        and parts[:3] == ["", "v2", "models"]
        and (len(parts) == 5 or (len(parts) == 7 and parts[4] == "versions"))
    )


def _target(scope: Scope) -> tuple[str, str | None]:
    """(model, version) of an inference scope. The path is the server's own view, never a header's."""
    parts = scope["path"].split("/")
    return parts[3], parts[5] if len(parts) == 7 else None


def _peek(lane: Lane, body: bytes, head: _Head) -> float:
    """The latency budget of a request before it is parsed, seconds; where only parsing can tell, the longest."""
    if head.content_encoding is not None:
        return MAX_LATENCY_S
    latency_s = peek_latency_s(body, head.budget, lane.default_budget)
    return MAX_LATENCY_S if latency_s is None else latency_s


def _disconnect_hook(scope: Scope) -> Callable[[Callable[[], object]], None]:
    """Where the server tells us of callers who left; other servers never call back, and that is fine."""

    def register(callback: Callable[[], object]) -> None:
        scope[ON_DISCONNECT_KEY] = callback

    return register


def _read_head(headers: list[tuple[bytes, bytes]], head: _Head) -> None:
    """One pass over the headers. Raises `InvalidRequest`."""
    for name, value in headers:
        if name == b"content-length":
            head.content_length = _length(name, value)
        elif name == b"inference-header-content-length":
            head.json_length = _length(name, value)
        elif name == b"content-encoding":
            head.content_encoding = value.decode("latin-1")
        elif name == b"accept-encoding":
            head.accept_encoding = value.decode("latin-1")
        elif name == b"x-request-id":
            if is_request_id(value):
                head.request_id = value
        elif name == b"traceparent":
            head.traceparent = value.decode("latin-1")
        elif name in BUDGET_HEADERS:
            if head.budget is None:
                head.budget = {}
            head.budget[BUDGET_HEADERS[name]] = value.decode("latin-1")


def _trace_headers(watched: Watched) -> list[tuple[bytes, bytes]]:
    """What tells the caller of a traced request where its trace is."""
    return [] if watched.trace is None else [(b"traceresponse", watched.trace.traceparent.encode())]


def _named(request_id: str, head: _Head) -> dict[str, object]:
    """What a line of the log needs to be found by."""
    trace_id = head.watched.trace_id if head.watched is not None else trace_id_of(head.traceparent)
    return {"request_id": request_id, "trace_id": trace_id} if trace_id else {"request_id": request_id}


def _length(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 15:
        raise InvalidRequest(f"header {name.decode()}: expected a number of bytes")
    return int(value)
