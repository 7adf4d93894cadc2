"""Start a server under test, wait until it serves, and be sure to stop it."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import httpx

from loadtests.benchmark.servers import ROOT, Place, ServerSpec
from loadtests.benchmark.tree import ProcessTree

_POLL_S = 0.1
_STOP_GRACE_S = 15.0
_LOG_TAIL_LINES = 12
_SETTLE_WINDOW_S = 0.5
_SETTLE_CORES = 0.5  # Ray alone keeps a tenth of a core busy; a worker that still imports takes a whole one
_SETTLE_LIMIT_S = 30.0


class StartError(RuntimeError):
    """A server that did not become ready; the first line says why, the others are the last it printed."""


@contextlib.contextmanager
def running(spec: ServerSpec, place: Place, folder: Path, extra_env: Mapping[str, str]) -> Iterator[ProcessTree]:
    """Run `spec` at `place` for the length of the block; raises `StartError`.

    The server leads a session of its own, so that Ctrl-C in a terminal reaches the benchmark and not the
    server; its whole tree is stopped on every way out. Its output goes to `folder`/`name`.log.
    """
    log = folder / f"{spec.name}.log"
    environment = spec.environment(place, os.environ, extra_env)
    process: subprocess.Popen[bytes] | None = None
    tree: ProcessTree | None = None
    try:
        # An interrupt between the start and the note of it would leave the server behind.
        with log.open("wb") as output, _interrupts_deferred():
            process = _start(spec.command(place), environment, output)
            tree = ProcessTree(process.pid)
        _wait_ready(spec, place, process, log)
        _wait_settled(tree)
        yield tree
    finally:
        if process is not None and tree is not None:
            with _interrupts_deferred():
                tree.stop(_STOP_GRACE_S)
                process.wait()


def _start(command: list[str], environment: dict[str, str], output: BinaryIO) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - the command lines are our own table
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise StartError(f"cannot run {command[0]}: {error.strerror}") from error


def _wait_ready(spec: ServerSpec, place: Place, process: subprocess.Popen[bytes], log: Path) -> None:
    url = spec.url(place, spec.ready_path)
    give_up_s = time.monotonic() + spec.start_timeout_s
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < give_up_s:
            code = process.poll()
            if code is not None:
                raise StartError(f"ended with {code} before it was ready{_tail(log)}")
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).status_code == httpx.codes.OK:
                    return
            time.sleep(_POLL_S)
    raise StartError(f"not ready after {spec.start_timeout_s:g} s{_tail(log)}")


def _wait_settled(tree: ProcessTree) -> None:
    """Wait until the tree is nearly idle: one ready worker does not say that its siblings are up."""
    give_up_s = time.monotonic() + _SETTLE_LIMIT_S
    while time.monotonic() < give_up_s:
        before_s = tree.cpu_s()
        time.sleep(_SETTLE_WINDOW_S)
        if tree.cpu_s() - before_s < _SETTLE_CORES * _SETTLE_WINDOW_S:
            return


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return "\n" + "\n".join(lines) if lines else ", and it printed nothing"


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back: a second Ctrl-C must not leave half a server behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    previous = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt
