"""What tracing costs: servers that differ in nothing else, asked in turns within one session.

    python -m loadtests.overhead [--traced 0.01 0.1 1] [--sessions 1] [--rounds 8] [--seconds 1] [--record FILE]

All servers of a session run the whole time. A round loads every one of them twice, in random order and then in the
reverse, so that a host that gets slower or faster meets all alike. What counts is the ratio to the untraced server of
the same round; two processes of one program differ by a percent themselves, so several sessions, each with servers
started anew, tell more than a long one. A second untraced server shows what differences mean nothing.

Beside throughput, which the host's other work disturbs, the processor time the server spent on each answer is told,
which it disturbs much less. It is counted from the end of one round to the end of the next: spans are sent later.
With `--record` rounds are added to a file, and the table is about all of them.
"""

import argparse
import contextlib
import json
import math
import os
import random
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from loadtests.benchmark.closed_loop import ClosedLoopLoad
from loadtests.benchmark.runner import Load
from loadtests.benchmark.running import running
from loadtests.benchmark.servers import free_place, pick
from loadtests.benchmark.tree import ProcessTree
from loadtests.benchmark.wire import Payload, encode_request
from loadtests.benchmark.wrk import WrkLoad, find_wrk
from loadtests.bootstrap import mean_interval
from loadtests.fixtures import mlp_file, sample_rows

SERVER = "gearshift-inprocess"
PLAIN, CONTROL = "off", "off again"
"""Servers without an endpoint for spans."""
WARM_UP_S = 2
TIMEOUT_S = 10.0
WIDTHS = (9, 10, 12, 24, 24, 15)


@dataclass(frozen=True, slots=True)
class Window:
    """One server under load for a while."""

    requests: int
    seconds: float
    cpu_s: float
    """Processor time of the server."""

    @property
    def rps(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of the server for one answer, microseconds."""
        return self.cpu_s / self.requests * 1e6


Round = Mapping[str, Window]
"""By server. A session is a list of rounds."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    url: str
    tree: ProcessTree


class _Sink(BaseHTTPRequestHandler):
    """A collector that takes everything and keeps nothing."""

    def do_POST(self) -> None:
        """Answer with an empty message: all was accepted."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be silent."""


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """The endpoint of a collector, for the length of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server: Server, load: Load, payload: Payload, connections: int, seconds: int) -> tuple[int, float]:
    """Load it for a while; the answers, and seconds. Raises `RuntimeError` when not every answer was right."""
    result = load.run(server.url, payload, connections, seconds)
    if result.errors or not result.requests:
        raise RuntimeError(f"{server.url}: {result.requests} answers, {dict(result.errors)}")
    return result.requests, result.seconds


class Session:
    """Servers that run side by side."""

    def __init__(
        self, servers: Mapping[str, Server], load: Load, order: random.Random, connections: int, seconds: int
    ) -> None:
        self._servers = servers
        self._load = load
        self._order = order
        self._connections = connections
        self._seconds = seconds
        self._payload = encode_request(sample_rows(1), "binary")
        self._spent_s: dict[str, float] = {}

    def warm_up(self) -> None:
        """Ask each for the first time."""
        for server in self._servers.values():
            ask(server, self._load, self._payload, self._connections, WARM_UP_S)
        self._spent_s = {name: server.tree.cpu_s() for name, server in self._servers.items()}

    def round(self) -> dict[str, Window]:
        """Load every server twice. Raises `RuntimeError` when an answer was wrong."""
        names = list(self._servers)
        self._order.shuffle(names)
        answers, seconds = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
        for name in (*names, *reversed(names)):
            more, lasted_s = ask(self._servers[name], self._load, self._payload, self._connections, self._seconds)
            answers[name] += more
            seconds[name] += lasted_s
        spent_s = {name: server.tree.cpu_s() for name, server in self._servers.items()}
        found = {
            name: Window(answers[name], seconds[name], spent_s[name] - self._spent_s[name]) for name in self._servers
        }
        self._spent_s = spent_s
        return found


def compared(sessions: Sequence[Sequence[Round]], shares: Mapping[str, float]) -> list[tuple[str, ...]]:
    """One line a server: its medians, and its mean ratios to the untraced one, with 95 % intervals.

    `shares`: by server, which part of the requests is traced. The last column is processor time, microseconds.
    """
    rounds = [one for session in sessions for one in session]
    lines: list[tuple[str, ...]] = []
    for name in rounds[0]:
        rps = statistics.median(one[name].rps for one in rounds)
        cpu_us = statistics.median(one[name].cpu_us for one in rounds)
        changes: tuple[str, ...] = ("", "", "")
        if name != PLAIN:
            extra_us = statistics.mean(one[name].cpu_us - one[PLAIN].cpu_us for one in rounds)
            changes = (
                _change([[one[name].rps / one[PLAIN].rps for one in session] for session in sessions]),
                _change([[one[name].cpu_us / one[PLAIN].cpu_us for one in session] for session in sessions]),
                f"{extra_us / shares[name]:.0f}" if shares.get(name) else "",
            )
        lines.append((name, f"{rps:,.0f}", f"{cpu_us:.1f}", *changes))
    return lines


def _change(ratios: Sequence[Sequence[float]]) -> str:
    """The mean of ratios, by session; what was started anew varies more than what is asked again."""
    logs = [[math.log(ratio) for ratio in session] for session in ratios]
    found = mean_interval([[statistics.mean(session) for session in logs]] if len(logs) > 1 else logs)
    middle, low, high = (math.expm1(value) for value in (found.mean, found.low, found.high))
    return f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"


def write_session(file: Path, rounds: Sequence[Round]) -> None:
    """Add a session to the file, as a line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps([{name: astuple(window) for name, window in one.items()} for one in rounds]) + "\n")


def read_sessions(file: Path) -> list[list[Round]]:
    """The sessions that were written. Raises `ValueError` for sessions that compare other servers than the first."""
    sessions: list[list[Round]] = [
        [{name: Window(*window) for name, window in one.items()} for one in json.loads(line)]
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    if len({frozenset(one) for session in sessions for one in session}) > 1:
        raise ValueError(f"{file}: its sessions compare different servers; give another file")
    return sessions


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.overhead", description="Measure what tracing costs.")
    parser.add_argument(
        "--traced", type=float, nargs="+", default=[0.01, 0.1, 1.0], metavar="SHARE", help="of the requests, by server"
    )
    parser.add_argument("--sessions", type=int, default=1, help="how often the servers are started anew")
    parser.add_argument("--rounds", type=int, default=8, help="of one session")
    parser.add_argument("--seconds", type=int, default=1, help="of one window; a round has two for each server")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seed", type=int, default=None, help="of the order within the rounds")
    parser.add_argument("--record", type=Path, default=None, help="file to add the rounds to")
    options = parser.parse_args(arguments)
    order = random.Random(options.seed)  # noqa: S311 - no secret
    shares = {PLAIN: 0.0, CONTROL: 0.0, **{f"{share * 100:g} %": share for share in options.traced}}
    sessions: list[list[Round]] = []
    for number in range(options.sessions):
        with tempfile.TemporaryDirectory(prefix="gearshift-overhead-") as folder, contextlib.ExitStack() as stack:
            root = Path(folder)
            wrk = find_wrk()
            load: Load = ClosedLoopLoad(TIMEOUT_S) if wrk is None else WrkLoad(wrk, root, TIMEOUT_S)
            servers = _start(root, stack, shares, order)
            session = Session(servers, load, order, options.connections, options.seconds)
            session.warm_up()
            rounds: list[Round] = []
            for count in range(options.rounds):
                rounds.append(session.round())
                sys.stderr.write(f"\rsession {number + 1} of {options.sessions}, round {count + 1} of {options.rounds}")
        sessions.append(rounds)
        if options.record is not None:
            write_session(options.record, rounds)
    sys.stderr.write("\n")
    if options.record is not None:
        sessions = read_sessions(options.record)
    head = ("traced", "requests/s", "us an answer", "requests/s (95 %)", "processor (95 %)", "us a traced one")
    for line in (head, *compared(sessions, shares)):
        sys.stdout.write("  ".join(cell.rjust(width) for cell, width in zip(line, WIDTHS, strict=True)) + "\n")
    sys.stdout.write(
        f"{len(sessions)} sessions, {sum(map(len, sessions))} rounds with two windows of {options.seconds} s a server, "
        f"{options.connections} connections by {load.name}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    return 0


def _start(
    folder: Path, stack: contextlib.ExitStack, shares: Mapping[str, float], order: random.Random
) -> dict[str, Server]:
    model = mlp_file(folder)
    endpoint = stack.enter_context(sink())
    (spec,) = pick([SERVER])
    servers = {}
    for number, name in enumerate(order.sample(list(shares), len(shares))):  # who starts first may fare better
        place = free_place(model)
        # With several workers, batches about as long as a hand-over run now in the event loop and now beside it: two
        # servers, or one a moment later, then differ by more than what is to be found. So does the order of sets.
        environment = {
            "GEARSHIFT_ENGINE__RUNTIME_DIR": str(folder / str(number)),
            "GEARSHIFT_ENGINE__WORKERS": "1",
            "PYTHONHASHSEED": "0",
        }
        if shares[name]:
            environment |= {
                "GEARSHIFT_TRACING__ENDPOINT": endpoint,
                "GEARSHIFT_TRACING__SAMPLE_RATIO": str(shares[name]),
            }
        named = replace(spec, name=f"{spec.name}-{number}")
        tree = stack.enter_context(running(named, place, folder, environment))
        servers[name] = Server(spec.target(place, "binary"), tree)
    return {name: servers[name] for name in shares}


if __name__ == "__main__":
    raise SystemExit(main())
