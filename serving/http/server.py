"""One HTTP server: a listening socket, its connections, and an end that loses none of them."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import islice
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.http.doorkeeper import Doorkeeper, DrainSummary
from serving.http.fdshare import SharedListener
from serving.http.limits import HttpLimits
from serving.http.protocol import Guard, GuardedProtocol

_POLL_S = 0.02
_HELD_UP_S = 0.2
"""Between two polls that should be `_POLL_S` apart: the host had no time for this process."""

_logger = logging.getLogger("gearshift.http")


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
        self._clock = clock
        self._config = Config(
            app, interface="asgi3", http=GuardedProtocol, ws="none", lifespan="off",
            access_log=False, log_config=None, server_header=False, date_header=True, proxy_headers=False,
        )  # fmt: skip
        self._state = ServerState()
        limits = limits or HttpLimits()
        self._doorkeeper: Doorkeeper[GuardedProtocol] = Doorkeeper(self, listening, limits, clock, tls)
        self._guard = Guard(limits, clock, self._doorkeeper.connection_lost)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        return self._doorkeeper.address

    @property
    def connections(self) -> frozenset[GuardedProtocol]:
        """The open connections."""
        return frozenset(cast("set[GuardedProtocol]", self._state.connections))

    async def start(self) -> None:
        """Begin to accept."""
        self._config.load()
        self._doorkeeper.start()

    def begin_leaving(self) -> None:
        """From now on every answer says `Connection: close`. Still accepts: a load balancer may not know yet."""
        self._guard.draining_since_s = self._clock()
        self._doorkeeper.leaving = True
        for connection in self.connections:
            connection.begin_drain()

    async def drain(self, grace_s: float, *, linger_s: float = 1.0) -> DrainSummary:
        """Stop without losing a request, in at most about `grace_s`; the server is closed afterwards.

        Other holders of the socket take over the backlog; a last holder empties it first. Every answer from now on
        says `Connection: close`. A connection that says nothing for `linger_s` is closed: a request sent in that very
        round trip, on an idle keep-alive connection, is the one that HTTP/1.1 gives no way to save (clients retry it).
        Where this loop itself was held up, so perhaps was the caller on the same host: its silence counts from then.
        """
        give_up_s = self._clock() + grace_s
        answered = self._state.total_requests
        self.begin_leaving()
        last_s = self._clock()
        await self._doorkeeper.leave(give_up_s)
        while self._state.connections and (now_s := self._clock()) < give_up_s:
            if now_s - last_s > _HELD_UP_S:
                self._guard.draining_since_s = now_s
            last_s = now_s
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
        await self._doorkeeper.close()
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.sleep(0)
        for task in self._state.tasks:
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=1.0)

    def make_connection(self) -> GuardedProtocol:
        """See `doorkeeper.Server`."""
        return GuardedProtocol(self._config, self._state, self._guard)

    def welcome(self, connection: GuardedProtocol) -> None:
        """See `doorkeeper.Server`: nobody is greeted over HTTP."""

    def sweep(self, now_s: float, elapsed_s: float) -> None:
        """See `doorkeeper.Server`."""
        date = formatdate(time.time(), usegmt=True).encode()
        self._state.default_headers = [(b"date", date), *self._config.encoded_headers]
        for connection in self.connections:
            connection.sweep(now_s, elapsed_s)
        # Callers are asked to move on while other holders of the socket have clearly fewer connections. Half of what is
        # too much at a time: others do the same, and callers need a moment to come back.
        for connection in islice(self.connections, -(-self._doorkeeper.surplus // 2)):
            connection.let_go()
