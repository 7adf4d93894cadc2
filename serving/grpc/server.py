"""One gRPC server: a listening socket, its connections, and an end that loses no call."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable

from serving.grpc.call import Call, Office
from serving.grpc.head import CallHead, read_head
from serving.http.fdshare import SharedListener
from serving.http.leaving import leave_socket
from serving.http.listener import Listener
from serving.http.server import DrainSummary
from serving.http2.connection import Connection, House
from serving.http2.limits import Http2Limits

_POLL_S = 0.02

log = logging.getLogger("gearshift.grpc")


class GrpcServer:
    """Answers gRPC on one listening socket, inside the running event loop."""

    def __init__(
        self,
        office: Office,
        listening: SharedListener,
        limits: Http2Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._office = office
        self._listening = listening
        self._limits = limits or Http2Limits()
        self._clock = clock
        self._tls = tls
        self._house = House(self._limits, clock, read_head, self._accept, self._connection_lost)
        self._listener: Listener | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._last_tick_s = clock()
        self._late = False
        self._leaving = False
        self._answered = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        return self._listening.host, self._listening.port

    @property
    def connections(self) -> frozenset[Connection]:
        """The open connections."""
        return frozenset(self._house.connections)

    async def start(self) -> None:
        """Begin to accept."""
        self._last_tick_s = self._clock()
        self._listener = Listener(self._listening.sock, self._connect, self._has_room, self._is_busiest)
        self._tick()
        self._listener.start()

    def begin_leaving(self) -> None:
        """Tell every client to go elsewhere with new calls, new clients too. Still accepts and answers."""
        self._leaving = True
        for connection in self.connections:
            connection.leave()

    async def drain(self, grace_s: float) -> DrainSummary:
        """Stop without losing a call, in at most about `grace_s`; the server is closed afterwards."""
        give_up_s = self._clock() + grace_s
        open_calls = self._calls()
        answered = self._answered
        self.begin_leaving()
        if self._listener is not None:
            await leave_socket(self._listening, self._listener, self._clock, give_up_s)
        while self._house.connections and self._clock() < give_up_s:
            for connection in self.connections:
                connection.leave()
            await asyncio.sleep(_POLL_S)
        aborted = self._calls()
        finished = open_calls + self._answered - answered - aborted
        await self.close()
        if aborted:
            log.warning("drained: %d calls finished, %d cut after %.1f s", finished, aborted, grace_s)
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
            connection.abort()
        await asyncio.sleep(0)

    def _calls(self) -> int:
        return sum(len(connection.streams) for connection in self._house.connections)

    def _accept(self, connection: Connection, number: int, head: CallHead) -> Call:
        self._answered += 1
        return Call(self._office, connection, number, head)

    async def _connect(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._tls is None:
            _, connection = await loop.connect_accepted_socket(self._connection, client)
        else:
            _, connection = await loop.connect_accepted_socket(
                self._connection, client, ssl=self._tls, ssl_handshake_timeout=self._limits.header_timeout_s
            )
        if self._leaving:
            connection.leave()
        self._post_load()

    def _connection(self) -> Connection:
        return Connection(self._house)

    def _has_room(self, connecting: int) -> bool:
        return len(self._house.connections) + connecting < self._limits.max_connections

    def _is_busiest(self, connecting: int) -> bool:
        board = self._listening.board
        return board is not None and board.is_busiest(self._clock(), len(self._house.connections) + connecting)

    def _post_load(self) -> None:
        board = self._listening.board
        if board is not None and not self._leaving:
            board.post(self._clock(), len(self._house.connections))

    def _connection_lost(self) -> None:
        self._post_load()
        if self._listener is not None:
            self._listener.wake()

    def _tick(self) -> None:
        interval_s = self._limits.sweep_interval_s
        self._post_load()
        now_s = self._clock()
        elapsed_s, self._last_tick_s = now_s - self._last_tick_s, now_s
        # When the loop itself was held up, bytes wait that it has not read: give it one round before judging clients.
        self._late = elapsed_s > 3 * interval_s and not self._late
        if not self._late:
            for connection in self.connections:
                connection.sweep(now_s)
        self._tick_handle = asyncio.get_running_loop().call_later(interval_s, self._tick)
