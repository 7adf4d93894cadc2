"""What tracing costs: servers that differ in nothing else, asked in turns within one session.

    python -m loadtests.overhead [--rounds 10] [--seconds 3] [--connections 16]

All servers run the whole time; each round loads every one of them once, in random order, so that a slow moment of the
host meets all alike. Beside throughput, which the host's other work disturbs, the processor time the server spent on
each answer is told, which it disturbs much less. What counts is the ratio to the untraced server of the same round.
"""

import argparse
import contextlib
import os
import random
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from loadtests.benchmark.closed_loop import ClosedLoopLoad
from loadtests.benchmark.runner import Load
from loadtests.benchmark.running import running
from loadtests.benchmark.servers import free_place, pick
from loadtests.benchmark.tree import ProcessTree
from loadtests.benchmark.wire import Payload, encode_request
from loadtests.benchmark.wrk import WrkLoad, find_wrk
from loadtests.fixtures import mlp_file, sample_rows

SERVER = "gearshift-inprocess"
PLAIN = "off"
RATIOS: Mapping[str, float | None] = {PLAIN: None, "1 %": 0.01, "10 %": 0.1, "100 %": 1.0}
"""Servers by what is traced; `off` has no endpoint at all."""
WARM_UP_S = 2
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Window:
    """One server under load for a while."""

    rps: float
    cpu_us: float
    """Processor time of the server for one answer, microseconds."""


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


def measure(server: Server, load: Load, payload: Payload, connections: int, seconds: int) -> Window:
    """One window. Raises `RuntimeError` when not every answer was right."""
    before_s = server.tree.cpu_s()
    result = load.run(server.url, payload, connections, seconds)
    spent_s = server.tree.cpu_s() - before_s
    if result.errors or not result.requests:
        raise RuntimeError(f"{server.url}: {result.requests} answers, {dict(result.errors)}")
    return Window(result.rps, spent_s / result.requests * 1e6)


def compared(rounds: Sequence[Mapping[str, Window]]) -> list[tuple[str, ...]]:
    """One line a server: medians, and the quartiles of its ratios to the untraced one of the same round, percent."""
    lines: list[tuple[str, ...]] = []
    for name in RATIOS:
        rps = statistics.median(one[name].rps for one in rounds)
        cpu_us = statistics.median(one[name].cpu_us for one in rounds)
        changes = (
            _spread([one[name].rps / one[PLAIN].rps for one in rounds]),
            _spread([one[name].cpu_us / one[PLAIN].cpu_us for one in rounds]),
        )
        lines.append((name, f"{rps:,.0f}", f"{cpu_us:.1f}", *(("", "") if name == PLAIN else changes)))
    return lines


def _spread(ratios: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (*ratios, *ratios, *ratios)
    return f"{middle - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.overhead", description="Measure what tracing costs.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=3, help="of one window")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds")
    options = parser.parse_args(arguments)
    order = random.Random(options.seed)  # noqa: S311 - no secret
    payload = encode_request(sample_rows(1), "binary")
    rounds: list[dict[str, Window]] = []
    with tempfile.TemporaryDirectory(prefix="gearshift-overhead-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        wrk = find_wrk()
        load: Load = ClosedLoopLoad(TIMEOUT_S) if wrk is None else WrkLoad(wrk, root, TIMEOUT_S)
        servers = _start(root, stack)
        for server in servers.values():
            measure(server, load, payload, options.connections, WARM_UP_S)
        for number in range(options.rounds):
            names = list(servers)
            order.shuffle(names)
            rounds.append(
                {name: measure(servers[name], load, payload, options.connections, options.seconds) for name in names}
            )
            sys.stderr.write(f"\rround {number + 1} of {options.rounds}")
    sys.stderr.write("\n")
    head = ("traced", "requests/s", "us an answer", "requests/s (quartiles)", "processor (quartiles)")
    for line in (head, *compared(rounds)):
        sys.stdout.write("  ".join(cell.rjust(24) for cell in line) + "\n")
    sys.stdout.write(
        f"{options.rounds} rounds of {options.seconds} s, {options.connections} connections by {load.name}, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    return 0


def _start(folder: Path, stack: contextlib.ExitStack) -> dict[str, Server]:
    model = mlp_file(folder)
    endpoint = stack.enter_context(sink())
    (spec,) = pick([SERVER])
    servers = {}
    for number, (name, ratio) in enumerate(RATIOS.items()):
        place = free_place(model)
        environment = {"GEARSHIFT_ENGINE__RUNTIME_DIR": str(folder / str(number))}
        if ratio is not None:
            environment |= {"GEARSHIFT_TRACING__ENDPOINT": endpoint, "GEARSHIFT_TRACING__SAMPLE_RATIO": str(ratio)}
        named = replace(spec, name=f"{spec.name}-{number}")
        tree = stack.enter_context(running(named, place, folder, environment))
        servers[name] = Server(spec.target(place, "binary"), tree)
    return servers


if __name__ == "__main__":
    raise SystemExit(main())
