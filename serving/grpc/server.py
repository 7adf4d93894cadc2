"""One gRPC server: a listening socket, its connections, and an end that loses no call."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable

from serving.grpc.call import Call, Office
from serving.grpc.head import CallHead, read_head
from serving.http.doorkeeper import Doorkeeper, DrainSummary
from serving.http.fdshare import SharedListener
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
        self._clock = clock
        limits = limits or Http2Limits()
        self._doorkeeper: Doorkeeper[Connection] = Doorkeeper(self, listening, limits, clock, tls)
        self._house = House(limits, clock, read_head, self._accept, self._doorkeeper.connection_lost)
        self._begun = 0
        """Calls that were ever received."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        return self._doorkeeper.address

    @property
    def connections(self) -> frozenset[Connection]:
        """The open connections."""
        return frozenset(self._house.connections)

    async def start(self) -> None:
        """Begin to accept."""
        self._doorkeeper.start()

    def begin_leaving(self) -> None:
        """Tell every client to go elsewhere with new calls, new clients too. Still accepts and answers."""
        self._doorkeeper.leaving = True
        for connection in self.connections:
            connection.leave()

    async def drain(self, grace_s: float) -> DrainSummary:
        """Stop without losing a call, in at most about `grace_s`; the server is closed afterwards."""
        give_up_s = self._clock() + grace_s
        open_calls = self._calls()
        begun = self._begun
        self.begin_leaving()
        await self._doorkeeper.leave(give_up_s)
        while self._house.connections and self._clock() < give_up_s:
            for connection in self.connections:
                connection.leave()
            await asyncio.sleep(_POLL_S)
        aborted = self._calls()
        finished = open_calls + self._begun - begun - aborted
        await self.close()
        if aborted:
            log.warning("drained: %d calls finished, %d cut after %.1f s", finished, aborted, grace_s)
        return DrainSummary(finished, aborted)

    async def close(self) -> None:
        """Cut everything now."""
        await self._doorkeeper.close()
        for connection in self.connections:
            connection.abort()
        await asyncio.sleep(0)

    def _calls(self) -> int:
        return sum(len(connection.streams) for connection in self._house.connections)

    def _accept(self, connection: Connection, number: int, head: CallHead) -> Call:
        self._begun += 1
        return Call(self._office, connection, number, head)

    def make_connection(self) -> Connection:
        """See `doorkeeper.Server`."""
        return Connection(self._house)

    def welcome(self, connection: Connection) -> None:
        """See `doorkeeper.Server`."""
        if self._doorkeeper.leaving:
            connection.leave()

    def sweep(self, now_s: float, elapsed_s: float) -> None:  # noqa: ARG002 - nothing here is counted between sweeps
        """See `doorkeeper.Server`."""
        for connection in self.connections:
            connection.sweep(now_s)
