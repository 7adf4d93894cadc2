import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from serving.http import listener as listener_module
from serving.http.listener import Listener


class FlakySocket:
    """A listening socket whose next accepts fail as told."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.failures: list[int] = []
        self.fileno = sock.fileno

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise OSError(self.failures.pop(0), "told to fail")
        return self._sock.accept()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as sock:
        sock.setblocking(False)
        yield sock


class Guests:
    """Collects accepted sockets; `at_least` waits for a number of them."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self._changed = asyncio.Event()

    async def welcome(self, client: socket.socket) -> None:
        self.sockets.append(client)
        self._changed.set()

    async def at_least(self, count: int) -> None:
        while len(self.sockets) < count:
            self._changed.clear()
            await self._changed.wait()


@contextlib.contextmanager
def knocking(listening: socket.socket, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(listening.getsockname())) for _ in range(count)]


def close(*listeners: Listener) -> None:
    for listener in listeners:
        listener.stop()


async def test_listeners_of_one_socket_take_turns(listening: socket.socket) -> None:
    guests, shares = Guests(), []
    for _ in range(2):
        shares.append(Listener(listening.dup(), guests.welcome, lambda _: True))
        shares[-1]._sock.setblocking(False)
        shares[-1].start()
    with knocking(listening, 64):
        await guests.at_least(64)
    assert [share.accepted for share in shares] == [32, 32]
    close(*shares)
    for share in shares:
        share._sock.close()
    for guest in guests.sockets:
        assert guest.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        guest.close()


@pytest.mark.parametrize("failure", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED])
async def test_a_failing_accept_is_survived(
    listening: socket.socket,
    failure: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listener_module, "_BACK_OFF_S", 0.01)
    flaky, guests = FlakySocket(listening), Guests()
    flaky.failures = [failure] * 3
    listener = Listener(flaky, guests.welcome, lambda _: True)  # type: ignore[arg-type]
    listener.start()
    with knocking(listening, 2):
        await guests.at_least(2)
    assert flaky.failures == []
    assert len(caplog.records) == (failure != errno.ECONNABORTED)  # once for the whole time
    close(listener)
    for guest in guests.sockets:
        guest.close()


async def test_above_the_cap_connections_wait_until_there_is_room(listening: socket.socket) -> None:
    guests, cap = Guests(), [3]
    listener = Listener(listening, guests.welcome, lambda connecting: len(guests.sockets) + connecting < cap[0])
    listener.start()
    with knocking(listening, 8):
        await guests.at_least(3)
        await listener.settled(1.0)
        assert listener.is_full
        assert listener.accepted == 3
        cap[0] = 5
        listener.wake()
        await guests.at_least(5)
        listener.stop()
        assert listener.accept_rest() == 3
        await guests.at_least(8)
    for guest in guests.sockets:
        guest.close()


async def test_a_connection_that_cannot_be_set_up_harms_no_other(listening: socket.socket) -> None:
    guests = Guests()
    refused: list[socket.socket] = []

    async def connect(client: socket.socket) -> None:
        if not refused:
            refused.append(client)
            raise ConnectionResetError
        await guests.welcome(client)

    listener = Listener(listening, connect, lambda _: True)
    listener.start()
    with knocking(listening, 2):
        await guests.at_least(1)
    await listener.settled(1.0)
    assert refused[0].fileno() == -1
    close(listener)
    for guest in guests.sockets:
        guest.close()


async def test_the_busier_process_lets_the_other_go_first_but_does_not_wait_for_ever(listening: socket.socket) -> None:
    guests = Guests()
    busy = Listener(listening, guests.welcome, lambda _: True, lambda _: True)
    other_socket = listening.dup()
    other_socket.setblocking(False)
    other = Listener(other_socket, guests.welcome, lambda _: True)
    busy.start()
    other.start()
    with knocking(listening, 32):
        await guests.at_least(32)
    assert other.accepted > busy.accepted
    other.stop()
    other_socket.close()
    with knocking(listening, 4):
        await guests.at_least(36)
    close(busy)
    for guest in guests.sockets:
        guest.close()
