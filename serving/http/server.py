"""One HTTP server: a listening socket, its connections, and an end that loses none of them."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from itertools import islice
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.http.fdshare import SharedListener
from serving.http.leaving import leave_socket
from serving.http.limits import HttpLimits
from serving.http.listener import Listener
from serving.http.protocol import Guard, GuardedProtocol

_POLL_S = 0.02

_logger = logging.getLogger("gearshift.http")


@dataclass(frozen=True, slots=True)
class DrainSummary:
    """How a drain went, in requests."""

    finished: int
    """Answered after the drain began."""
    aborted: int
    """Cut at the end of the grace period."""


class HttpServer:
    """Serves an ASGI 3 application on one listening socket, inside the running event loop.

    It is uvicorn's protocol without uvicorn's server: no signal handling, no lifespan events (whoever composes the
    process runs those), so several of them live in one loop.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        listening: SharedListener,
        limits: HttpLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listening = listening
        self._limits = limits or HttpLimits()
        self._clock = clock
        self._tls = tls
        self._config = Config(
            app, interface="asgi3", http=GuardedProtocol, ws="none", lifespan="off",
            access_log=False, log_config=None, server_header=False, date_header=True, proxy_headers=False,
        )  # fmt: skip
        self._state = ServerState()
        self._guard = Guard(self._limits, clock, self._connection_lost)
        self._listener: Listener | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._last_tick_s = clock()
        self._late = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        return self._listening.host, self._listening.port

    @property
    def connections(self) -> frozenset[GuardedProtocol]:
        """The open connections."""
        return frozenset(cast("set[GuardedProtocol]", self._state.connections))

    async def start(self) -> None:
        """Begin to accept."""
        self._config.load()
        self._last_tick_s = self._clock()
        self._listener = Listener(self._listening.sock, self._connect, self._has_room, self._is_busiest)
        self._tick()
        self._listener.start()

    def begin_leaving(self) -> None:
        """From now on every answer says `Connection: close`. Still accepts: a load balancer may not know yet."""
        self._guard.draining_since_s = self._clock()
        for connection in self.connections:
            connection.begin_drain()

    async def drain(self, grace_s: float, *, linger_s: float = 0.3) -> DrainSummary:
        """Stop without losing a request, in at most about `grace_s`; the server is closed afterwards.

        Other holders of the socket take over the backlog; a last holder empties it first. Every answer from now on
        says `Connection: close`. A connection that says nothing for `linger_s` is closed: a request sent in that very
        round trip, on an idle keep-alive connection, is the one that HTTP/1.1 gives no way to save (clients retry it).
        """
        give_up_s = self._clock() + grace_s
        answered = self._state.total_requests
        self.begin_leaving()
        if self._listener is not None:
            await leave_socket(self._listening, self._listener, self._clock, give_up_s)
        while self._state.connections and self._clock() < give_up_s:
            now_s = self._clock()
            for connection in self.connections:
                connection.close_if_idle(now_s, linger_s)
            await asyncio.sleep(_POLL_S)
        if self._state.tasks:  # an application may work on after its answer
            await asyncio.wait(self._state.tasks, timeout=max(0.0, give_up_s - self._clock()))
        aborted = sum(connection.unanswered for connection in self.connections)
        finished = self._state.total_requests - answered
        await self.close()
        if aborted:
            _logger.warning("drained: %d requests finished, %d cut after %.1f s", finished, aborted, grace_s)
        return DrainSummary(finished, aborted)

    async def close(self) -> None:
        """Cut everything now."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None
        if self._listener is not None:
            self._listener.stop()
            self._listener.cancel()
            await self._listener.settled(1.0)
            self._listener = None
        await asyncio.to_thread(self._listening.close)
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.sleep(0)
        for task in self._state.tasks:
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=1.0)

    async def _connect(self, client: socket.socket) -> None:
        def connection() -> GuardedProtocol:
            return GuardedProtocol(self._config, self._state, self._guard)

        loop = asyncio.get_running_loop()
        if self._tls is None:
            await loop.connect_accepted_socket(connection, client)
        else:
            await loop.connect_accepted_socket(
                connection, client, ssl=self._tls, ssl_handshake_timeout=self._limits.header_timeout_s
            )
        self._post_load()

    def _has_room(self, connecting: int) -> bool:
        return len(self._state.connections) + connecting < self._limits.max_connections

    def _is_busiest(self, connecting: int) -> bool:
        board = self._listening.board
        return board is not None and board.is_busiest(self._clock(), len(self._state.connections) + connecting)

    def _post_load(self) -> None:
        board = self._listening.board
        if board is not None and self._guard.draining_since_s is None:
            board.post(self._clock(), len(self._state.connections))

    def _share(self) -> None:
        """Ask callers to move on while other holders of the socket have clearly fewer connections.

        Half of what is too much at a time: others do the same, and callers need a moment to come back.
        """
        board = self._listening.board
        if board is None or self._guard.draining_since_s is not None:
            return
        surplus = board.surplus(self._clock(), len(self._state.connections))
        for connection in islice(self.connections, -(-surplus // 2)):
            connection.let_go()

    def _connection_lost(self) -> None:
        self._post_load()
        if self._listener is not None:
            self._listener.wake()

    def _tick(self) -> None:
        interval_s = self._limits.sweep_interval_s
        self._post_load()
        now_s = self._clock()
        elapsed_s, self._last_tick_s = now_s - self._last_tick_s, now_s
        date = formatdate(time.time(), usegmt=True).encode()
        self._state.default_headers = [(b"date", date), *self._config.encoded_headers]
        # When the loop itself was held up, bytes wait that it has not read: give it one round before judging clients.
        self._late = elapsed_s > 3 * interval_s and not self._late
        if not self._late:
            for connection in self.connections:
                connection.sweep(now_s, elapsed_s)
            self._share()
        self._tick_handle = asyncio.get_running_loop().call_later(interval_s, self._tick)
