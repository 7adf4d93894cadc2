"""One call: messages in, messages out, and a status at the end."""

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serving.codec.compression import WORTH_COMPRESSING_BYTES, UnsupportedEncoding, decompress
from serving.core.errors import GearshiftError, InternalError, PayloadTooLarge, Unauthenticated
from serving.grpc.errors import CallRefused, Code, code_of, error_fields
from serving.grpc.head import CallHead
from serving.http2.connection import Connection
from serving.http2.hpack import write_fields
from serving.http2.stream import Stream
from serving.keys import ApiKeys

Message = bytes | bytearray
"""One message as it was sent, decompressed."""
Unary = Callable[["Call", Message], Awaitable[bytes]]
"""Answers one message with one. Raises `GearshiftError`."""
Streaming = Callable[["Call"], Awaitable[None]]
"""Takes messages with `Call.next` and sends answers with `Call.send` until it returns. Raises `GearshiftError`."""

PREFIX_BYTES = 5
MAX_UNREAD = 16
"""Messages of a stream that may wait to be taken; then the client gets no more credit."""
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
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
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
        "_buffer",
        "_compressed",
        "_head_sent",
        "_message",
        "_method",
        "_office",
        "_partial_since_s",
        "_task",
        "_unread",
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
        self._buffer: bytearray | None = None
        self._partial_since_s: float | None = connection.heard_s
        self._message: Message | None = None
        self._unread: deque[Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._compressed = False
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
            self._partial_since_s = None
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
            self._read(data)
        except GearshiftError as error:
            self._refuse(error)
            return
        if ended:
            if self._buffer:
                self._refuse(CallRefused(Code.INTERNAL, "the stream ended inside a message"))
            else:
                self._last_received()
        elif len(self._unread) < MAX_UNREAD:
            self.credit()

    def _read(self, data: bytes | bytearray) -> None:
        """Take all whole messages out of what has arrived."""
        buffer = self._buffer
        if buffer is not None:
            self.connection.unfinished_bytes += len(data)
            buffer += data
            data = buffer
        at, end = 0, len(data)
        while end - at >= PREFIX_BYTES:
            size = int.from_bytes(data[at + 1 : at + PREFIX_BYTES])
            if size > self._office.max_message_bytes:
                raise PayloadTooLarge(f"the message is larger than {self._office.max_message_bytes} bytes")
            stop = at + PREFIX_BYTES + size
            if stop > end:
                break
            self._take(data[at], data[at + PREFIX_BYTES : stop])
            at = stop
        self._keep(data, at)

    def _keep(self, data: bytes | bytearray, used: int) -> None:
        """Hold back the bytes of a message that is not complete."""
        if used == len(data):
            if self._buffer is not None:
                self.connection.unfinished_bytes -= len(self._buffer)
                self._buffer = None
            self._partial_since_s = None
            return
        if self._buffer is None:
            self._buffer = bytearray(memoryview(data)[used:])
            self.connection.unfinished_bytes += len(self._buffer)
        elif used:
            del self._buffer[:used]
            self.connection.unfinished_bytes -= used
        if self._partial_since_s is None or used:
            self._partial_since_s = self.connection.heard_s
        if self.connection.unfinished_bytes > 2 * self._office.max_message_bytes:
            raise PayloadTooLarge("too many bytes of unfinished messages on one connection")

    def _take(self, compressed: int, message: Message) -> None:
        if compressed:
            self._compressed = self.head.encoding in _WINDOW_BITS
            if compressed != 1 or self.head.encoding is None:
                raise CallRefused(Code.INTERNAL, "a message is marked as compressed, but no grpc-encoding was given")
            message = decompress(bytes(message), self.head.encoding, self._office.max_message_bytes)
        self.received_s = self.connection.heard_s
        if self._method is not None and self._method.streaming is not None:
            self._unread.append(message)
            self._wake_reader()
        elif self._message is None:
            self._message = message
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
        since_s = self._partial_since_s
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
        message = self._unread.popleft()
        self.credit()
        return message

    async def send_message(self, message: bytes) -> None:
        """Send one of many answers, and wait while the caller does not want more."""
        head = b"" if self._head_sent else self._response_head()
        self.send(head, self._framed(message), None)
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

    async def _unary(self, handler: Unary, message: Message) -> None:
        answer = await handler(self, message)
        self.send(self._response_head(), self._framed(answer), _OK)

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
        if self._buffer is not None:
            self.connection.unfinished_bytes -= len(self._buffer)
            self._buffer = None
        self._unread.clear()
        self._wake_reader()

    def _response_head(self) -> bytes:
        self._head_sent = True
        head = _HEADS[self.head.encoding if self._compressed else None]
        if self.head.request_id:
            head += write_fields([(b"x-request-id", self.head.request_id)])
        return head

    def _framed(self, message: bytes) -> bytes:
        """A message with its prefix; compressed where the caller's were, if that makes it smaller."""
        if self._compressed and len(message) > WORTH_COMPRESSING_BYTES:
            packed = zlib.compress(message, 1, wbits=_WINDOW_BITS[self.head.encoding or "gzip"])
            if len(packed) < len(message):
                return b"\x01" + len(packed).to_bytes(4) + packed
        return b"\x00" + len(message).to_bytes(4) + message
