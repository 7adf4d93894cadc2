"""The ends of a server: asked for under load, and not asked for at all."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.integration.conftest import Starter
from tests.integration.harness.crowd import Tally, crowd, scale_questions
from tests.integration.harness.servers import Server, eventually, free_port

BEFORE_SIGNAL = 200
CLIENTS = 24


def loaded(server: Server, *, keep_alive: bool, after: threading.Event) -> Tally:
    """A crowd that sets `after` in the middle of its work, and goes on until nobody answers any more."""

    def go_on(so_far: Tally) -> bool:
        if sum(so_far.statuses.values()) > BEFORE_SIGNAL:
            after.set()
        return True

    questions = [scale_questions(seed, [{}, {"prefer": "latency"}]) for seed in range(CLIENTS)]
    return asyncio.run(crowd((server.host, server.port), questions, go_on, keep_alive=keep_alive))


def stopped_under_load(server: Server, number: signal.Signals, *, keep_alive: bool) -> tuple[Tally, int]:
    """Send the signal while a crowd is at work; returns what became of its requests, and the exit code."""
    tallies: list[Tally] = []
    ready = threading.Event()
    load = threading.Thread(target=lambda: tallies.append(loaded(server, keep_alive=keep_alive, after=ready)))
    load.start()
    assert ready.wait(60)
    server.processes()
    server.process.send_signal(number)
    code = server.ended()
    load.join(90)
    assert not load.is_alive(), "a client still waits for an answer of a server that is gone"
    return tallies[0], code


@pytest.mark.parametrize(
    ("number", "keep_alive"),
    [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGINT, False)],
    ids=["SIGTERM-keep-alive", "SIGTERM-connection-per-request", "SIGINT-connection-per-request"],
)
def test_a_signal_under_load_loses_no_request(start: Starter, number: signal.Signals, *, keep_alive: bool) -> None:
    server = start("--engine", "inprocess")
    tally, code = stopped_under_load(server, number, keep_alive=keep_alive)
    assert code == 0
    assert tally.wrong == []
    assert tally.statuses.keys() == {200}
    assert tally.statuses[200] > BEFORE_SIGNAL
    assert not tally.broken, f"accepted, but not answered: {tally.broken}"
    assert tally.refused_connections == CLIENTS, "each client ends with a clean refusal to connect"
    assert "0 cut" in server.log_tail()


def test_a_second_signal_does_not_break_the_drain(start: Starter) -> None:
    server = start("--engine", "inprocess")
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGTERM)
    assert server.ended() == 0


def test_a_signal_while_it_starts_ends_it(repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cold"  # so that it is still measuring
    server = Server(
        "starting", ("--models", str(repository), "--engine", "inprocess"), cache=cache, log=tmp_path / "log"
    )
    try:
        eventually("it has begun to measure", lambda: cache.exists() or server.log_tail(), within_s=60)
        assert server.stop() == 0
    finally:
        server.destroy()


def test_a_killed_server_can_be_started_again_on_its_ports(start: Starter, tmp_path: Path) -> None:
    """Without Ray there is one process: the sockets and counters it leaves do not stand in the way."""
    ports, runtime = (free_port(), free_port()), tmp_path.parent / "rt"
    runtime.mkdir()
    first = start("--engine", "inprocess", ports=ports, runtime=runtime)
    first.kill()
    second = start("--engine", "inprocess", ports=ports, runtime=runtime)
    assert sum(second.outcomes("scale").values()) == 0, "counters begin with the server"
    assert second.stop() == 0


def test_two_servers_do_not_share_a_port(start: Starter) -> None:
    first = start("--engine", "inprocess")
    with pytest.raises(AssertionError) as told:
        start("--engine", "inprocess", ports=(first.port, first.metrics_port))
    assert str(first.port) in str(told.value)
    assert "Traceback" not in str(told.value)
    assert first.is_ready()


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_killed_driver_of_ray_leaves_no_orphan_and_its_successor_drains(start: Starter, tmp_path: Path) -> None:
    """SIGKILL, a new start on the same ports and folders, then SIGINT under load."""
    ports, runtime = (free_port(), free_port()), tmp_path.parent / "rt"
    runtime.mkdir(exist_ok=True)
    first = start("--engine", "ray", ports=ports, runtime=runtime)
    before = {process.pid for process in first.processes()} - {os.getpid()}
    first.kill()
    second = start("--engine", "ray", ports=ports, runtime=runtime)
    assert len(before) > 3, "gcs, raylet, replicas"
    orphans = before & {process.pid for process in first.processes()} - {p.pid for p in second.processes()}
    assert not orphans
    tally, code = stopped_under_load(second, signal.SIGINT, keep_alive=True)
    assert code == 0
    assert tally.wrong == []
    assert tally.statuses.keys() == {200}
    assert not tally.broken
