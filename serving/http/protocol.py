"""One HTTP/1.1 connection: uvicorn's httptools protocol, with the limits and deadlines that it lacks.

What a connection is doing is kept as two facts: the stage of what is being *received* and the cycle that is
being *answered*. No timer is armed per request; the server calls `sweep` on every connection twice a second.
"""

import asyncio
import fcntl
import logging
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serving.http.cycle import GentleTransport, GuardedCycle
from serving.http.head import (
    WATCHED,
    check_head,
    check_once,
    check_size,
    split_target,
    too_large,
    too_many,
    without_upgrade,
)
from serving.http.limits import HttpLimits
from serving.http.refusal import Refusal, RequestRefused

RECEIVED_KEY: Final = "gearshift.received_s"
"""Key of the ASGI scope: monotonic second at which the last byte of the request was there."""

# What the receiving side of a connection is in the middle of.
_IDLE: Final = 0  # between two requests
_HEAD: Final = 1  # in the request line or the headers
_BODY: Final = 2  # in the body
_DEAF: Final = 3  # nothing more is parsed; earlier requests are still being answered
_LINGER: Final = 4  # our side is closed; the client's bytes are discarded so that no reset destroys the answer

_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 16 * 1024 * 1024

_logger = logging.getLogger("gearshift.http")


@dataclass(slots=True)
class Guard:
    """What all connections of one server share."""

    limits: HttpLimits
    clock: Callable[[], float]
    """Monotonic seconds."""
    on_lost: Callable[[], None]
    """Called after a connection has gone."""
    draining_since_s: float | None = None


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's connection with limits, deadlines, JSON errors, a stamp of receipt and a loss-free close."""

    cycle: GuardedCycle  # uvicorn annotates its own class; every cycle is made here

    def __init__(self, config: Config, server_state: ServerState, guard: Guard) -> None:
        super().__init__(config, server_state, app_state={})
        self.access_log = False
        self.logger = _logger
        self._guard = guard
        self._limits = guard.limits
        self._clock = guard.clock
        self._stage = _IDLE
        self._now_s = self._since_s = self._last_byte_s = guard.clock()
        self._write_since_s: float | None = None
        self._messages = 0
        self._seen = 0  # watched headers
        self._trailers = 0  # bytes
        self._fed = 0  # bytes that the parser is being given
        self._head_fed = 0  # bytes of an incomplete head that it was given before
        self._active: GuardedCycle | None = None
        self._let_go = False
        self._parting: Refusal | None = None
        self._discarded = 0

    # What the loop tells us

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Start the deadline of the first request."""
        super().connection_made(transport)
        self._gentle = cast("asyncio.Transport", GentleTransport(transport, self.close_gently))
        self._since_s = self._clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every unanswered request: uvicorn tells the last one only, and the others would wait for ever."""
        for cycle in self._unanswered():
            cycle.disconnect()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._guard.on_lost()

    def data_received(self, data: bytes) -> None:
        """Parse; refuse what is malformed or over a limit."""
        self._now_s = self._last_byte_s = self._clock()
        self._fed = len(data)
        stage, messages = self._stage, self._messages
        if stage >= _DEAF:
            self._discard(self._fed)
            return
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._parse_failed(error)
        if self._stage == _HEAD:
            self._check_open_head(stage, messages)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._write_since_s = None
        super().resume_writing()

    # What the parser tells us

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._messages and not self.cycle.wants_keep_alive:
            self._stage = _DEAF  # the client itself said that there would be no other request
            raise RequestRefused(None)
        super().on_message_begin()
        if self._messages:
            self._since_s = self._now_s
        if self._active is None:
            self._write_since_s = None
        self._messages += 1
        self._stage = _HEAD
        self._seen = self._head_fed = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line, or one trailer: trailers are counted and dropped, for they are no headers."""
        if self._stage == _BODY:
            self._trailers += len(name) + len(value)
            if self._trailers > self._limits.max_header_bytes:
                raise RequestRefused(Refusal(431, "the trailers are too large"))
            return
        name = name.lower()
        if name in WATCHED:
            self._seen = check_once(self._seen, name, value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there: check it whole, and start the application (or queue the request)."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise RequestRefused(Refusal(501, "CONNECT is not supported"))
            return  # parsed again without its Upgrade header, see _parse
        version = self.parser.get_http_version()
        check_head(version, self._seen)
        if len(self.headers) > self._limits.max_headers:
            raise too_many(self._limits)
        if self._head_fed + self._fed > self._limits.max_header_bytes:  # may be body or another request
            check_size(self._limits, self.url, self.headers)
        self._fill_scope(version)
        wants_keep_alive = version != "1.0" and self.parser.should_keep_alive()
        cycle = GuardedCycle(
            scope=self.scope,
            transport=self._gentle,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            # An answer that overtakes its own request ends the connection, so nobody has to read the rest
            # of a body that was refused. Set right when the request is complete.
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        cycle.wants_keep_alive = wants_keep_alive
        if self._active is None:
            self._active = cycle
            self._start_asgi_task(cycle, self.app)
        else:
            self._queue(cycle)
        self.cycle = cycle
        self._stage = _BODY
        self._since_s = self._now_s
        self._trailers = 0

    def on_body(self, body: bytes) -> None:
        """A piece of the body; the client is held back while the application does not take it."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self._stage != _BODY:
            return  # the first reading of a request with an Upgrade header
        self._stage = _IDLE
        self._since_s = self._now_s
        cycle = self.cycle
        cycle.scope[RECEIVED_KEY] = self._now_s  # type: ignore[typeddict-unknown-key] # an ASGI extension of ours
        if not cycle.response_started:
            staying = self._guard.draining_since_s is None and not self._let_go
            cycle.keep_alive = cycle.wants_keep_alive and staying
        cycle.more_body = False
        cycle.message_event.set()

    # What the application tells us

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or wait for one."""
        self.server_state.total_requests += 1
        self._active = None
        if self.transport.is_closing() or self._stage == _LINGER:
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._active = cast("GuardedCycle", cycle)
            self._start_asgi_task(cycle, app)
        elif self._parting is not None:
            self._part(self._parting)
            return
        elif self._stage == _IDLE:
            self._since_s = self._clock()
        self.flow.resume_reading()

    # What the server asks

    @property
    def unanswered(self) -> int:
        """Requests of which at least the head was received and whose response is not complete."""
        return len(self._unanswered())

    def begin_drain(self) -> None:
        """Say `Connection: close` with the last answer that is still owed."""
        if self._stage == _IDLE and self._active is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def let_go(self) -> None:
        """Say `Connection: close` with the next answer: the caller is to connect anew, where there is more room."""
        self._let_go = True

    def close_if_idle(self, now_s: float, idle_s: float) -> None:
        """Close if no request is under way and none has been for `idle_s`, counted from the drain at the earliest."""
        since_s = max(self._since_s, self._guard.draining_since_s or self._since_s)
        if self._stage == _IDLE and self._active is None and now_s - since_s >= idle_s:
            self._close_if_quiet()

    def close_gently(self) -> None:
        """Close; if the client is still sending, in a way that lets it read the answer first."""
        if self.transport.is_closing() or self._stage == _LINGER:
            return
        if self._stage == _IDLE or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closing a socket with unread bytes resets the connection, and a reset destroys what the client
        # has not read yet: half-close, and discard for a moment.
        self._stage = _LINGER
        self._since_s = self._clock()
        self.transport.write_eof()
        self.flow.resume_reading()

    def sweep(self, now_s: float, elapsed_s: float) -> None:
        """Enforce the deadlines; `elapsed_s` is the time since the last sweep."""
        if self._write_is_stuck(now_s):
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._stage == _HEAD:
            if self.flow.read_paused:
                self._since_s += elapsed_s
            elif now_s - self._since_s >= self._limits.header_timeout_s:
                self.refuse(Refusal(408, "the request head did not arrive in time"))
        elif self._stage == _BODY:
            self._sweep_body(now_s, elapsed_s)
        elif self._stage == _IDLE and self._active is None:
            fresh = not self._messages
            if now_s - self._since_s >= (self._limits.header_timeout_s if fresh else self._limits.keep_alive_s):
                self._close_if_quiet()
        elif self._stage == _LINGER:
            if self.transport.get_write_buffer_size():
                self._since_s = now_s
            elif now_s - self._since_s >= _LINGER_S:
                self.transport.close()

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error once the earlier requests are answered, then close. Nothing more is parsed."""
        if self.transport.is_closing() or self._stage == _LINGER:
            return
        broken = self.cycle if self._stage == _BODY else None
        self._stage = _DEAF
        if broken is not None:
            broken.disconnect()
            if broken is not self._active:
                self.pipeline.popleft()
            elif broken.response_started:
                self.transport.abort()  # half an answer is out: only a cut tells the client that it is broken
                return
            else:
                self._active = None
        if self._active is None:
            self._part(refusal)
        else:
            self._parting = refusal

    # Details

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser takes the body of a request that asks for an upgrade for the first bytes of the other
                # protocol (a POST of Java's HttpClient asks for h2c: its body would be lost, or be parsed as
                # the next request). We never upgrade, as RFC 9110 section 7.8 allows: parse the request again
                # without that wish, then what followed it.
                head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self._messages -= 1
            else:
                return

    def _parse_failed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if isinstance(cause, RequestRefused):
            if cause.refusal is not None:
                self.refuse(cause.refusal)
        elif cause is not None:
            self.logger.error("A callback of the HTTP parser failed", exc_info=cause)
            self.refuse(Refusal(500, "internal error"))
        else:
            self.refuse(Refusal(400, f"malformed HTTP request: {error}"))  # the parser's texts are fixed

    def _check_open_head(self, stage: int, messages: int) -> None:
        """Bound a head whose end has not come yet; the parser reports a header line only when it is complete."""
        if stage == _HEAD and messages == self._messages:
            self._head_fed += self._fed
        else:
            # Where the head began in the middle of these bytes is not known: count from the next ones.
            self._head_fed = self._fed if stage == _IDLE and messages + 1 == self._messages else 0
        if self._head_fed > self._limits.max_header_bytes:
            self.refuse(too_large(self._limits))

    def _fill_scope(self, version: str) -> None:
        path, raw_path, query = split_target(self.url)
        scope = cast("dict[str, Any]", self.scope)
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = query

    def _queue(self, cycle: GuardedCycle) -> None:
        if len(self.pipeline) + 1 >= self._limits.max_pipelined:
            raise RequestRefused(Refusal(429, f"more than {self._limits.max_pipelined} unanswered requests"))
        if not self.cycle.response_started:
            # During a drain the last request, not this one's predecessor, says `Connection: close`.
            self.cycle.keep_alive = self.cycle.wants_keep_alive
        self.flow.pause_reading()
        self.pipeline.appendleft((cycle, self.app))

    def _unanswered(self) -> list[GuardedCycle]:
        active = [] if self._active is None else [self._active]
        return active + [cast("GuardedCycle", cycle) for cycle, _ in self.pipeline]

    def _part(self, refusal: Refusal) -> None:
        self.transport.write(refusal.render(self.server_state.default_headers))
        self._stage = _DEAF
        self.close_gently()

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > _LINGER_BYTES:
            self.transport.abort()

    def _sweep_body(self, now_s: float, elapsed_s: float) -> None:
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            # We are the one who does not read, or who has not asked for the body yet.
            self._since_s += elapsed_s
            self._last_byte_s = now_s
        elif (
            now_s - self._since_s >= self._limits.body_timeout_s
            or now_s - max(self._since_s, self._last_byte_s) >= self._limits.body_stall_s
        ):
            self.refuse(Refusal(408, "the request body did not arrive in time"))

    def _write_is_stuck(self, now_s: float) -> bool:
        if not self.transport.get_write_buffer_size():
            self._write_since_s = None
            return False
        if self._write_since_s is None:
            self._write_since_s = now_s
        return now_s - self._write_since_s >= self._limits.write_timeout_s

    def _close_if_quiet(self) -> None:
        """Close unless bytes of a next request are already here: the loop will read them in a moment."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        (unread,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
        if not unread:
            self.transport.close()
