"""The accept loop: one connection per readiness event, a cap, and survival of full descriptor tables."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

_BACK_OFF_S = 0.1
_YIELD_S = 0.001

_logger = logging.getLogger("gearshift.http")


class Listener:
    """Accepts from a listening socket that other processes may share, and leaves the rest of the work to `connect`.

    `asyncio` and uvloop accept as many connections as they find: the first of several processes to wake takes them
    all. Here it is one at a time, and the less busy process goes first. Above the cap connections wait in the
    backlog, where other processes may take them.
    """

    def __init__(
        self,
        sock: socket.socket,
        connect: Callable[[socket.socket], Awaitable[object]],
        has_room: Callable[[int], bool],
        is_busiest: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """`connect` turns an accepted socket into a connection.

        `has_room` and `is_busiest` (than another process that accepts from the same socket) are asked with the number
        of connections that are accepted but not yet made.
        """
        self._sock = sock
        self._connect = connect
        self._has_room = has_room
        self._is_busiest = is_busiest
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._reading = False
        self._stopped = True
        self._failing = False
        self._yielded = False
        self._back_off: asyncio.TimerHandle | None = None
        self.accepted = 0
        """Connections accepted so far."""

    @property
    def is_full(self) -> bool:
        """Whether the cap keeps it from accepting."""
        return not self._has_room(len(self._connecting))

    def start(self) -> None:
        """Accept from now on."""
        self._stopped = False
        self.wake()

    def stop(self) -> None:
        """Accept no more; what was accepted goes its way. May be started again."""
        self._stopped = True
        if self._back_off is not None:
            self._back_off.cancel()
            self._back_off = None
        self._pause()

    def wake(self) -> None:
        """There may be room again."""
        if not self._stopped and not self._reading and self._back_off is None and not self.is_full:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._accept_one)

    def accept_rest(self) -> int:
        """Accept all that waits, over the cap too: the alternative is a reset. Returns how many there were."""
        before = self.accepted
        while self._accept():
            pass
        return self.accepted - before

    async def settled(self, timeout_s: float) -> None:
        """Wait until each accepted socket is a connection or has failed (a TLS handshake takes a while)."""
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=timeout_s)

    def cancel(self) -> None:
        """Give up the sockets that are not connections yet."""
        for task in self._connecting:
            task.cancel()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _accept_one(self) -> None:
        if not self._yielded and self._is_busiest(len(self._connecting)):
            # Let a less busy process have it; if none does within a moment, it is ours.
            self._yielded = True
            self._wait(_YIELD_S)
            return
        self._yielded = False
        self._accept()
        if self.is_full:
            self._pause()

    def _accept(self) -> bool:
        try:
            client, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return False  # another process was faster
        except ConnectionAbortedError:
            return True  # the client has gone already
        except OSError as error:
            self._suspend(error)
            return False
        self._failing = False
        self.accepted += 1
        task = self._loop.create_task(self._introduce(client))
        self._connecting.add(task)
        task.add_done_callback(self._introduced)
        return True

    def _suspend(self, error: OSError) -> None:
        """Out of descriptors or memory, mostly: the connection stays in the backlog, try again in a moment."""
        if not self._failing:
            self._failing = True
            _logger.warning("cannot accept connections: %s; retrying every %s s", error.strerror, _BACK_OFF_S)
        self._wait(_BACK_OFF_S)

    def _wait(self, delay_s: float) -> None:
        self._pause()
        if self._back_off is None and not self._stopped:
            self._back_off = self._loop.call_later(delay_s, self._retry)

    def _retry(self) -> None:
        self._back_off = None
        self.wake()

    async def _introduce(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._connect(client)
        except OSError:
            client.close()  # the client went away, or its TLS handshake failed
        except BaseException:
            client.close()
            raise

    def _introduced(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("an accepted connection could not be set up", exc_info=error)
        self.wake()
