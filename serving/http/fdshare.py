"""One listening socket for all replicas of a node, handed from process to process over Unix sockets.

With a listening socket per process (`SO_REUSEPORT`) the kernel resets what waits in the backlog of the one that
closes. Here every process holds a descriptor of the *same* socket, so the backlog lives until the last holder
closes it, however the others end. Each holder has a doorway, `<port>-<pid>-<random>.sock` in the rendezvous
directory, at which a newcomer fetches its descriptor; a doorway that refuses connections belonged to a dead
process and is removed. Everything that looks at doorways and then acts holds the lock `<port>.lock`.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from serving.http.loadboard import LoadBoard

_LOCK_TIMEOUT_S = 15.0
_ASK_TIMEOUT_S = 1.0
_BIND_PATIENCE_S = 1.0  # a killed holder closes its descriptors one after the other
_BIND_PAUSE_S = 0.05
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python's socket module does not name it
_BPF_RETURN = 0x06
_LONGEST_PATH = 107  # bytes of sockaddr_un.sun_path, less the final zero


class ListenError(OSError):
    """The port cannot be listened on; the message names host, port and remedy."""


class SharedListener:
    """A holder's copy of the listening socket, and its doorway."""

    def __init__(self, sock: socket.socket, rendezvous: Path | None = None) -> None:
        self.sock = sock
        self.host, self.port = sock.getsockname()[:2]
        self._rendezvous = rendezvous
        self._doorway: _Doorway | None = None
        self.board: LoadBoard | None = None
        """Where the holders compare how busy they are; None for a socket of this process alone."""
        if rendezvous is not None:
            self.board = LoadBoard(rendezvous / f"{self.port}.load")
            self._doorway = _Doorway(rendezvous, self.port, sock)

    def leave(self) -> bool:
        """Close this copy if another process holds one too; False, and nothing done, if this is the last.

        Two holders that leave at once take turns, so one of them learns that it is the last. Blocks for about
        1 s for each holder that does not react. Stop accepting before.
        """
        if self._rendezvous is None or self._doorway is None:
            return False
        with _locked(self._rendezvous, self.port):
            return self._leave(self._rendezvous, self._doorway)

    def leave_or_shut(self) -> bool:
        """`leave`; but the last holder shuts the door: from now on the kernel drops whoever wants to connect.

        Without that it would go on completing handshakes until the moment of `close`, which resets them. A client
        whose first packet is dropped tries again a second later, and is then refused. What is in the backlog
        already can still be accepted.
        """
        if self._rendezvous is None or self._doorway is None:
            _drop_everything(self.sock)
            return False
        with _locked(self._rendezvous, self.port):
            if self._leave(self._rendezvous, self._doorway):
                return True
            self._doorway.close()  # nobody may get a socket that hears nothing
            self._doorway = None
            _drop_everything(self.sock)
        return False

    def _leave(self, rendezvous: Path, doorway: "_Doorway") -> bool:
        for path in _doorways(rendezvous, self.port):
            if path == doorway.path:
                continue
            other = _ask(path)
            if other is not None:
                other.close()
                self._shut()
                return True
        return False

    def close(self) -> None:
        """Close this copy whoever else holds one. A last holder's close resets what is left in the backlog."""
        if self._rendezvous is None or self._doorway is None:
            self._shut()
            return
        with _locked(self._rendezvous, self.port):
            self._shut()

    def _shut(self) -> None:
        if self._doorway is not None:
            self._doorway.close()
            self._doorway = None
        if self.board is not None:
            self.board.close()
        self.sock.close()


def acquire_listener(host: str, port: int, *, backlog: int = 2048, rendezvous: Path | None = None) -> SharedListener:
    """The listening socket of `host:port`: a sibling's, if one is met at `rendezvous`, else a new one.

    Without a rendezvous the socket is this process's own. Port 0 always makes a new socket, on a free port. Call it
    when ready to accept: from here on siblings may leave the backlog to this process. Blocks, for seconds at worst.
    Raises `ListenError`.
    """
    if rendezvous is None:
        return SharedListener(_bind(host, port, backlog))
    _prepare(rendezvous)
    if port == 0:
        sock = _bind(host, port, backlog)
        with _locked(rendezvous, sock.getsockname()[1]):
            return _held(sock, rendezvous)
    with _locked(rendezvous, port):
        shared = None
        for path in _doorways(rendezvous, port):
            if shared is None:
                shared = _ask_for(path, host, port)
            else:
                _tidy(path)
        return _held(shared or _bind(host, port, backlog), rendezvous)


class _Doorway:
    """A Unix socket, and a thread that gives each caller of the same user a descriptor.

    A thread, because a newcomer should not have to wait for an event loop that is busy or not yet running.
    """

    def __init__(self, rendezvous: Path, port: int, listening: socket.socket) -> None:
        self.path = rendezvous / f"{port}-{os.getpid()}-{secrets.token_hex(4)}.sock"
        self._listening = listening
        self._closing = threading.Event()
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._door.bind(os.fspath(self.path))
            self.path.chmod(0o600)
            self._door.listen()
        except OSError:
            self._door.close()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"listener-doorway-{port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more. The listening socket stays open."""
        self._closing.set()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._thread.join()
        self._door.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                caller, _ = self._door.accept()
            except OSError:
                self._closing.wait(0.1)  # out of descriptors: others will be closed
                continue
            with caller, contextlib.suppress(OSError):
                caller.settimeout(_ASK_TIMEOUT_S)
                if _same_user(caller):
                    socket.send_fds(caller, [b"L"], [self._listening.fileno()])


def _drop_everything(sock: socket.socket) -> None:
    """Let the kernel drop every packet that is for the listening socket itself (Linux, no privilege needed)."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))  # struct sock_filter: return 0
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(drop))  # struct sock_fprog
    with contextlib.suppress(OSError):  # where it cannot be had, the close is as abrupt as anywhere
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _held(sock: socket.socket, rendezvous: Path) -> SharedListener:
    try:
        return SharedListener(sock, rendezvous)
    except OSError:
        sock.close()
        raise


def _ask_for(path: Path, host: str, port: int) -> socket.socket | None:
    shared = _ask(path)
    if shared is None or _listens_on(shared, host, port):
        return shared
    shared.close()
    return None


def _ask(path: Path) -> socket.socket | None:
    """The listening socket of the holder behind a doorway; None if it is dead (then tidied up) or does not react."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_ASK_TIMEOUT_S)
        try:
            caller.connect(os.fspath(path))
            if not _same_user(caller):
                return None
            _, descriptors, _, _ = socket.recv_fds(caller, 1, 1)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return None
        except OSError:
            return None
    if not descriptors:
        return None
    shared = socket.socket(fileno=descriptors[0])
    shared.set_inheritable(False)
    shared.setblocking(False)
    return shared


def _tidy(path: Path) -> None:
    """Remove a dead holder's doorway, without waiting for a living one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return


def _same_user(peer: socket.socket) -> bool:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.geteuid())


def _listens_on(sock: socket.socket, host: str, port: int) -> bool:
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    _, address = _resolve(host, port)
    return bool(sock.getsockname()[:2] == address[:2])


def _doorways(rendezvous: Path, port: int) -> list[Path]:
    return sorted(rendezvous.glob(f"{port}-*.sock"))


@contextlib.contextmanager
def _locked(rendezvous: Path, port: int) -> Iterator[None]:
    lock = FileLock(rendezvous / f"{port}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise ListenError(
            errno.ETIMEDOUT, f"port {port}: another process of this node has been starting or stopping for too long"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _prepare(rendezvous: Path) -> None:
    """Make the directory private, or refuse it: whoever can write there can offer us a socket."""
    longest = len(os.fsencode(rendezvous)) + len("/65535-4194304-12345678.sock")
    if longest > _LONGEST_PATH:
        raise ListenError(errno.ENAMETOOLONG, "the path of the rendezvous directory is too long for a Unix socket")
    rendezvous.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = rendezvous.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise ListenError(errno.EPERM, "the rendezvous must be a directory that belongs to this user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ListenError(errno.EPERM, "the rendezvous directory is open to other users; make it mode 0700")


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ListenError(errno.EADDRNOTAVAIL, f"cannot listen on {host}:{port}: unknown host") from error
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value] # TCP addresses only, by the type asked for


def _bind(host: str, port: int, backlog: int) -> socket.socket:
    family, address = _resolve(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` means both families
        _bind_patiently(sock, address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _explained(error, host, port) from error
    return sock


def _bind_patiently(sock: socket.socket, address: tuple[str, int] | tuple[str, int, int, int]) -> None:
    give_up_s = time.monotonic() + _BIND_PATIENCE_S
    while True:
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= give_up_s:
                raise
            time.sleep(_BIND_PAUSE_S)
        else:
            return


def _explained(error: OSError, host: str, port: int) -> ListenError:
    remedy = {
        errno.EADDRINUSE: "another program listens there; stop it or choose another port",
        errno.EACCES: "ports below 1024 need privileges; choose a higher port",
        errno.EADDRNOTAVAIL: "this machine does not have that address; listen on one that it has",
    }.get(error.errno or 0, os.strerror(error.errno or 0))
    return ListenError(error.errno, f"cannot listen on {host}:{port}: {remedy}")
