"""Handing the listening socket from holder to holder; the other holders are real processes where it matters."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.http import fdshare
from serving.http.fdshare import ListenError, SharedListener, acquire_listener
from serving.http.server import HttpServer

HOST = "127.0.0.1"
QUEUED = 200
HOLDER = """
import pathlib, sys
from serving.http.fdshare import acquire_listener
listener = acquire_listener("127.0.0.1", int(sys.argv[1]), rendezvous=pathlib.Path(sys.argv[2]))
print(listener.port, flush=True)
for line in sys.stdin:
    print(listener.leave() if line == "leave\\n" else listener.close(), flush=True)
"""


class Holder:
    """Another process that holds the socket and never accepts."""

    def __init__(self, port: int, rendezvous: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(port), str(rendezvous)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd(),
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def tell(self, order: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def holder(port: int, rendezvous: Path) -> Iterator[Holder]:
    process = Holder(port, rendezvous)
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture
def rendezvous(tmp_path: Path) -> Path:
    return tmp_path / "r"


def socket_of(listener: SharedListener) -> int:
    return os.fstat(listener.sock.fileno()).st_ino


def doorways(rendezvous: Path) -> list[str]:
    return sorted(path.name.split("-")[1] for path in rendezvous.glob("*.sock"))


def test_port_0_is_a_free_port_and_siblings_get_the_same_socket(rendezvous: Path) -> None:
    first = acquire_listener(HOST, 0, rendezvous=rendezvous)
    second = acquire_listener(HOST, first.port, rendezvous=rendezvous)
    alone = acquire_listener(HOST, 0)
    with contextlib.closing(first), contextlib.closing(second), contextlib.closing(alone):
        assert first.port == first.sock.getsockname()[1] > 0
        assert socket_of(first) == socket_of(second) != socket_of(alone)
        assert not second.sock.get_inheritable()
        assert second.sock.gettimeout() == 0
        assert not alone.leave()


def test_starters_that_race_end_with_one_socket(rendezvous: Path) -> None:
    probe = acquire_listener(HOST, 0)
    probe.close()
    with ThreadPoolExecutor(8) as pool:
        listeners = list(pool.map(lambda _: acquire_listener(HOST, probe.port, rendezvous=rendezvous), range(8)))
    assert len({socket_of(listener) for listener in listeners}) == 1
    with ThreadPoolExecutor(8) as pool:
        left = list(pool.map(SharedListener.leave, listeners))
    assert sorted(left) == [False] + [True] * 7  # exactly one learns that it is the last
    for listener in listeners:
        listener.close()
    assert doorways(rendezvous) == []


def test_a_dead_holders_doorway_is_removed_and_a_living_one_serves(rendezvous: Path) -> None:
    with (
        holder(0, rendezvous) as dead,
        contextlib.closing(acquire_listener(HOST, dead.port, rendezvous=rendezvous)) as living,
    ):
        dead.kill()
        assert str(dead.process.pid) in doorways(rendezvous)
        with contextlib.closing(acquire_listener(HOST, dead.port, rendezvous=rendezvous)) as newcomer:
            assert socket_of(newcomer) == socket_of(living)
            assert str(dead.process.pid) not in doorways(rendezvous)


def test_after_the_last_holder_was_killed_a_newcomer_binds_anew(rendezvous: Path) -> None:
    with holder(0, rendezvous) as dead:
        dead.kill()
        with contextlib.closing(acquire_listener(HOST, dead.port, rendezvous=rendezvous)) as newcomer:
            assert newcomer.port == dead.port
            assert doorways(rendezvous) == [str(os.getpid())]


async def echo(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})  # type: ignore[operator]
    await send({"type": "http.response.body"})  # type: ignore[operator]


@pytest.mark.parametrize("end", ["kill", "leave", "close"])
async def test_no_queued_connection_is_lost_when_a_holder_ends(rendezvous: Path, end: str) -> None:
    with holder(0, rendezvous) as other:
        server = HttpServer(echo, acquire_listener(HOST, other.port, rendezvous=rendezvous))
        clients = [socket.create_connection((HOST, other.port)) for _ in range(QUEUED)]
        for client in clients:
            client.setblocking(False)
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        if end == "kill":
            other.kill()
        else:
            assert other.tell(end) == {"leave": "True", "close": "None"}[end]
        await server.start()
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(*(loop.sock_recv(client, 100) for client in clients))
        assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}
        await server.close()
        for client in clients:
            client.close()


def test_a_holder_that_does_not_react_is_passed_over(rendezvous: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdshare, "_ASK_TIMEOUT_S", 0.05)
    with contextlib.closing(acquire_listener(HOST, 0, rendezvous=rendezvous)) as first:
        stuck = rendezvous / f"{first.port}-1-00000000.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.bind(os.fspath(stuck))
            door.listen()
            with contextlib.closing(acquire_listener(HOST, first.port, rendezvous=rendezvous)) as second:
                assert socket_of(first) == socket_of(second)
                assert second.leave()
            assert not first.leave()  # the stuck one would not serve the backlog
            assert stuck.exists()


def test_a_doorway_with_another_address_is_not_taken(rendezvous: Path) -> None:
    first = acquire_listener(HOST, 0, rendezvous=rendezvous)
    other = acquire_listener("127.0.0.2", first.port, rendezvous=rendezvous)
    with contextlib.closing(first), contextlib.closing(other):
        assert other.host == "127.0.0.2"
        assert socket_of(first) != socket_of(other)


@pytest.mark.parametrize("shared", [False, True])
def test_a_foreign_program_on_the_port_is_an_error_with_a_remedy(
    rendezvous: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr(fdshare, "_BIND_PATIENCE_S", 0.0)
    with socket.create_server((HOST, 0)) as foreign:
        port = foreign.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}: another program .* choose another port"):
            acquire_listener(HOST, port, rendezvous=rendezvous if shared else None)


def test_an_address_that_is_not_ours_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ListenError, match="this machine does not have that address"):
        acquire_listener("192.0.2.1", 0)


def test_only_this_user_reaches_the_doorways(rendezvous: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(acquire_listener(HOST, 0, rendezvous=rendezvous)) as first:
        (path,) = rendezvous.glob("*.sock")
        assert path.stat().st_mode & 0o777 == 0o600
        assert rendezvous.stat().st_mode & 0o777 == 0o700
        monkeypatch.setattr(fdshare, "_same_user", lambda peer: False)
        assert fdshare._ask(path) is None
        assert first.port > 0


def test_a_rendezvous_open_to_others_is_refused(rendezvous: Path) -> None:
    rendezvous.mkdir()
    rendezvous.chmod(0o755)
    with pytest.raises(ListenError, match="mode 0700"):
        acquire_listener(HOST, 0, rendezvous=rendezvous)
    target = rendezvous.with_name("link")
    target.symlink_to(rendezvous)
    with pytest.raises(ListenError, match="must be a directory"):
        acquire_listener(HOST, 0, rendezvous=target)


def test_a_path_too_long_for_a_unix_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="too long"):
        acquire_listener(HOST, 0, rendezvous=tmp_path / ("x" * 100))
