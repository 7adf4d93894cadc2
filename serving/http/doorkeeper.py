"""One listening socket and the connections behind it: lets in as many as there is room for, looks after them, and ends.

What a connection speaks is its own affair; the HTTP and the gRPC server differ in that alone.
"""

import asyncio
import socket
import ssl
from asyncio import BaseProtocol
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from serving.http.fdshare import SharedListener
from serving.http.leaving import leave_socket
from serving.http.listener import Listener
from serving.ports import Clock

ConnectionT = TypeVar("ConnectionT", bound=BaseProtocol)

LATE_SWEEPS = 3
"""After so many intervals without a sweep the loop itself was held up."""


@dataclass(frozen=True, slots=True)
class DrainSummary:
    """How a drain went, in requests."""

    finished: int
    """Answered after the drain began."""
    aborted: int
    """Cut at the end of the grace period."""


class Limits(Protocol):
    """What a doorkeeper needs to know of a protocol's limits."""

    @property
    def max_connections(self) -> int:
        """Connections open at once; further ones wait in the backlog."""
        ...

    @property
    def header_timeout_s(self) -> float:
        """Time for a handshake."""
        ...

    @property
    def sweep_interval_s(self) -> float:
        """How often the connections are looked over."""
        ...


class Server(Protocol[ConnectionT]):
    """What a doorkeeper asks of the server it works for."""

    @property
    def connections(self) -> frozenset[ConnectionT]:
        """The open connections."""
        ...

    def make_connection(self) -> ConnectionT:
        """One for a client that is let in."""
        ...

    def welcome(self, connection: ConnectionT) -> None:
        """A connection is made."""
        ...

    def sweep(self, now_s: float, elapsed_s: float) -> None:
        """Enforce the deadlines of all connections; `elapsed_s` is the time since the last sweep."""
        ...


class Doorkeeper(Generic[ConnectionT]):
    """Accepts for a server, inside the running event loop."""

    def __init__(
        self,
        server: Server[ConnectionT],
        listening: SharedListener,
        limits: Limits,
        clock: Clock,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.leaving = False
        """Whether clients are told to go elsewhere: then others need not know how many are here."""
        self._server = server
        self._listening = listening
        self._limits = limits
        self._clock = clock
        self._tls = tls
        self._listener: Listener | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._last_tick_s = clock()
        self._late = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        return self._listening.host, self._listening.port

    @property
    def surplus(self) -> int:
        """Connections more than a fair part of those that all holders of the socket have; 0 when leaving."""
        board = self._listening.board
        return 0 if board is None or self.leaving else board.surplus(self._clock(), len(self._server.connections))

    def start(self) -> None:
        """Begin to accept."""
        self._last_tick_s = self._clock()
        self._listener = Listener(self._listening.sock, self._connect, self._has_room, self._is_busiest)
        self._tick()
        self._listener.start()

    async def leave(self, give_up_s: float) -> None:
        """Stop accepting without resetting anybody who waits at the socket."""
        if self._listener is not None:
            await leave_socket(self._listening, self._listener, self._clock, give_up_s)

    async def close(self) -> None:
        """Accept nobody any more, now. The connections are the server's to end."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None
        if self._listener is not None:
            self._listener.stop()
            self._listener.cancel()
            await self._listener.settled(1.0)
            self._listener = None
        await asyncio.to_thread(self._listening.close)

    def connection_lost(self) -> None:
        """There is room for one more."""
        self._post_load()
        if self._listener is not None:
            self._listener.wake()

    async def _connect(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._tls is None:
            _, connection = await loop.connect_accepted_socket(self._server.make_connection, client)
        else:
            _, connection = await loop.connect_accepted_socket(
                self._server.make_connection,
                client,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.header_timeout_s,
            )
        self._server.welcome(connection)
        self._post_load()

    def _has_room(self, connecting: int) -> bool:
        return len(self._server.connections) + connecting < self._limits.max_connections

    def _is_busiest(self, connecting: int) -> bool:
        board = self._listening.board
        return board is not None and board.is_busiest(self._clock(), len(self._server.connections) + connecting)

    def _post_load(self) -> None:
        board = self._listening.board
        if board is not None and not self.leaving:
            board.post(self._clock(), len(self._server.connections))

    def _tick(self) -> None:
        interval_s = self._limits.sweep_interval_s
        self._post_load()
        now_s = self._clock()
        elapsed_s, self._last_tick_s = now_s - self._last_tick_s, now_s
        # When the loop itself was held up, bytes wait that it has not read: give it one round before judging clients.
        self._late = elapsed_s > LATE_SWEEPS * interval_s and not self._late
        if not self._late:
            self._server.sweep(now_s, elapsed_s)
        self._tick_handle = asyncio.get_running_loop().call_later(interval_s, self._tick)
