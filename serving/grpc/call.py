"""One call: messages in, messages out, and a status at the end."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serving.codec.compression import UnsupportedEncoding
from serving.core.errors import GearshiftError, InternalError, Unauthenticated
from serving.door import OFF_LOOP_BYTES
from serving.grpc.errors import CallRefused, Code, code_of, error_fields
from serving.grpc.framing import WINDOW_BITS, Message, MessageReader, Sent, framed, unpacked
from serving.grpc.head import CallHead
from serving.http2.connection import Connection
from serving.http2.hpack import write_fields
from serving.http2.stream import Stream
from serving.keys import ApiKeys

Unary = Callable[["Call", Message], Awaitable[bytes]]
"""Answers one message with one. Raises `GearshiftError`."""
Streaming = Callable[["Call"], Awaitable[None]]
"""Takes messages with `Call.next` and sends answers with `Call.send` until it returns. Raises `GearshiftError`."""

MAX_UNREAD_BYTES = 1024 * 1024
"""Bytes of a stream's messages that may wait to be taken; then the client gets no more credit."""
OPEN_METHODS = frozenset(
    {
        b"/grpc.health.v1.Health/Check",
        b"/grpc.health.v1.Health/Watch",
        b"/inference.GRPCInferenceService/ServerLive",
        b"/inference.GRPCInferenceService/ServerReady",
    }
)
"""What probes ask, who have no key."""
_STATUS_200 = b"\x88"
_HEAD = _STATUS_200 + write_fields([(b"content-type", b"application/grpc")])
_HEADS = {
    None: _HEAD,
    "gzip": _HEAD + write_fields([(b"grpc-encoding", b"gzip")]),
    "deflate": _HEAD + write_fields([(b"grpc-encoding", b"deflate")]),
}
_OK = write_fields([(b"grpc-status", b"0")])
_ACCEPTED = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_WRONG_MEDIA = write_fields([(b":status", b"415"), (b"content-type", b"text/plain")])

log = logging.getLogger("gearshift.grpc")


@dataclass(frozen=True, slots=True)
class Method:
    """What answers a path: exactly one of the two."""

    unary: Unary | None = None
    streaming: Streaming | None = None


@dataclass(frozen=True, slots=True)
class Office:
    """What the calls of one server share."""

    methods: Mapping[bytes, Method]
    """By path, /package.Service/Method."""
    refused: Callable[[Code], None]
    """Told of each call that ends with an error."""
    new_id: Callable[[], str]
    max_message_bytes: int
    """A connection may have twice as many bytes of messages that are not complete."""
    keys: ApiKeys | None = None
    """Who may call; None: everybody."""


class Call(Stream):
    """A call from its headers to its status. Whatever happens, exactly one status is sent, or the caller is gone."""

    __slots__ = (
        "_coding",
        "_head_sent",
        "_message",
        "_method",
        "_office",
        "_reader",
        "_since_s",
        "_task",
        "_unread",
        "_unread_bytes",
        "_waiter",
        "head",
        "opened_s",
        "received_s",
    )

    def __init__(self, office: Office, connection: Connection, number: int, head: CallHead) -> None:
        super().__init__(connection, number)
        self.head = head
        self.opened_s = connection.heard_s
        self.received_s = connection.heard_s
        """When the last message was complete."""
        self._office = office
        self._method = office.methods.get(head.path)
        self._reader = MessageReader(connection, office.max_message_bytes)
        self._since_s: float | None = connection.heard_s
        self._message: Sent | None = None
        self._unread: deque[Sent] = deque()
        self._unread_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._coding: str | None = None
        self._head_sent = False

    def begin(self) -> None:
        """See `Stream.begin`."""
        method = self._method
        if self.head.fault is not None:
            self.send(_WRONG_MEDIA, self.head.fault.encode(), b"")
        elif not self._admitted():
            return
        elif method is None:
            name = self.head.path[:100].decode("ascii", "replace")
            self._refuse(CallRefused(Code.UNIMPLEMENTED, f"there is no method {name} here"))
        elif method.streaming is not None:
            self._since_s = None
            self._start(method.streaming(self))

    def _admitted(self) -> bool:
        """Whether the caller may call; who may not has been told."""
        keys = self._office.keys
        if keys is None or self.head.path in OPEN_METHODS:
            return True
        try:
            keys.check(self.head.key)
        except Unauthenticated as error:
            self._refuse(error)
            return False
        return True

    @property
    def deadline_s(self) -> float | None:
        """When the caller stops waiting, on the gateway's clock."""
        return None if self.head.timeout_s is None else self.opened_s + self.head.timeout_s

    # What arrives.

    def receive(self, data: bytes, *, ended: bool) -> None:
        """See `Stream.receive`."""
        if self.local_done:
            return
        try:
            for sent in self._reader.read(data):
                self._take(sent)
            if ended and self._reader.incomplete:
                raise CallRefused(Code.INTERNAL, "the stream ended inside a message")
        except GearshiftError as error:
            self._refuse(error)
            return
        if ended:
            self._last_received()
            return
        if self._streams:
            self._since_s = self.connection.heard_s if self._reader.incomplete else None
        if self._unread_bytes < MAX_UNREAD_BYTES:
            self.credit()

    @property
    def _streams(self) -> bool:
        return self._method is not None and self._method.streaming is not None

    def _take(self, sent: Sent) -> None:
        self.received_s = self.connection.heard_s
        if self._streams:
            self._unread.append(sent)
            self._unread_bytes += len(sent[1])
            self.connection.unfinished_bytes += len(sent[1])
            self._wake_reader()
        elif self._message is None:
            self._message = sent
        else:
            raise CallRefused(Code.INTERNAL, "this method takes one message, got more")

    def _last_received(self) -> None:
        self.received_s = self.connection.heard_s
        if self._method is None or self._method.unary is None:
            self._wake_reader()
        elif self._message is None:
            self._refuse(CallRefused(Code.INTERNAL, "this method takes one message, got none"))
        else:
            self._start(self._unary(self._method.unary, self._message))
            self._message = None

    def lost(self) -> None:
        """See `Stream.lost`: whoever works on the call is told to stop."""
        self._let_go()
        if self._task is not None:
            self._task.cancel()

    def sweep(self, now_s: float) -> None:
        """See `Stream.sweep`: a message may not take for ever to arrive."""
        since_s = self._since_s
        if since_s is not None and not self.remote_done and now_s - since_s > self.connection.limits.body_timeout_s:
            self._refuse(CallRefused(Code.DEADLINE_EXCEEDED, "the message did not arrive in time"))

    # What is done with it.

    async def next(self) -> Message | None:
        """The next message of the stream; None after the last."""
        while not self._unread:
            if self.remote_done or self.local_done:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        sent = self._unread.popleft()
        self._unread_bytes -= len(sent[1])
        self.connection.unfinished_bytes -= len(sent[1])
        if self._unread_bytes < MAX_UNREAD_BYTES:
            self.credit()
        return await self._plain(sent)

    async def send_message(self, message: bytes) -> None:
        """Send one of many answers, and wait while the caller does not want more."""
        data = await self._framed(message)
        self.send(b"" if self._head_sent else self._response_head(), data, None)
        await self.drained()

    def count_refusal(self, code: Code) -> None:
        """A request of the stream was refused, in the stream."""
        self._office.refused(code)

    def _wake_reader(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _start(self, work: Awaitable[None]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Awaitable[None]) -> None:
        try:
            await work
            if not self.local_done:
                self.send(b"" if self._head_sent else self._response_head(), b"", _OK)
        except GearshiftError as error:
            self._refuse(error)
        except Exception:
            request_id = self.head.request_id.decode("ascii") or self._office.new_id()
            log.exception("call failed", extra={"request_id": request_id})
            self._refuse(InternalError(f"internal error (request {request_id})"))
        finally:
            self._task = None
            self._let_go()

    async def _unary(self, handler: Unary, sent: Sent) -> None:
        answer = await handler(self, sent[1] if not sent[0] else await self._plain(sent))
        data = framed(answer, None) if self._coding is None else await self._framed(answer)
        self.send(self._response_head(), data, _OK)

    async def _plain(self, sent: Sent) -> Message:
        compressed, message = sent
        if not compressed:
            return message
        encoding = self.head.encoding
        self._coding = encoding if encoding in WINDOW_BITS else None
        # A few bytes may become a thousand times as many.
        return await asyncio.to_thread(unpacked, message, encoding, self._office.max_message_bytes)

    async def _framed(self, message: bytes) -> bytes:
        """With its prefix; compressed where the caller's messages were."""
        if self._coding is None or len(message) < OFF_LOOP_BYTES:
            return framed(message, self._coding)
        return await asyncio.to_thread(framed, message, self._coding)

    def _refuse(self, error: GearshiftError) -> None:
        """End with an error; a task that still works on the call is stopped."""
        if self.local_done:
            return
        code = code_of(error)
        self._office.refused(code)
        level = logging.WARNING if code in (Code.INTERNAL, Code.UNAVAILABLE) else logging.DEBUG
        if log.isEnabledFor(level):
            log.log(level, "refused: %s", error, extra={"status": code.name})
        fields = error_fields(error)
        if self.head.request_id:
            fields.append((b"x-request-id", self.head.request_id))
        if isinstance(error, UnsupportedEncoding):
            fields.append(_ACCEPTED)
        block = write_fields(fields)
        if self._head_sent:
            self.send(b"", b"", block)
        else:
            self.send(_HEAD + block, b"", b"")
        self._let_go()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _let_go(self) -> None:
        """Nothing of what has arrived is needed any more."""
        self._reader.discard()
        self.connection.unfinished_bytes -= self._unread_bytes
        self._unread_bytes = 0
        self._unread.clear()
        self._wake_reader()

    def _response_head(self) -> bytes:
        self._head_sent = True
        head = _HEADS[self._coding]
        if self.head.request_id:
            head += write_fields([(b"x-request-id", self.head.request_id)])
        return head
