"""Replicas that are killed, and replicas that are replaced, while requests come in."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.harness.crowd import Tally, crowd, scale_questions
from tests.integration.harness.servers import GONE_WITHIN_S, Server, eventually, running

pytestmark = pytest.mark.ray

CLIENTS = 16
CAPACITY_BACK_WITHIN_S = 45.0
BUDGETS = [{}, {"prefer": "latency"}, {"min_accuracy": 0.7}]


def listeners(server: Server) -> set[int]:
    """The processes that hold the API's listening socket: the gateway replicas."""
    found = set()
    for process in server.processes():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == server.port for c in connections):
            found.add(process.pid)
    return found


async def under_load(
    server: Server, meanwhile: Callable[[], None], *, seed: int, keep_alive: bool = True, at_least: int = 0
) -> Tally:
    """A crowd at work while something happens in a thread, and a little longer."""
    over: list[float] = []

    def go_on(so_far: Tally) -> bool:
        return not over or so_far.sent < at_least or time.monotonic() < over[0] + 1.0

    async def event() -> None:
        try:
            await asyncio.sleep(1.0)  # the crowd is at work
            await asyncio.to_thread(meanwhile)
        finally:
            over.append(time.monotonic())

    questions = [scale_questions(seed * 1000 + number, BUDGETS) for number in range(CLIENTS)]
    address = server.host, server.port
    tally, _ = await asyncio.gather(crowd(address, questions, go_on, keep_alive=keep_alive), event())
    return tally


def killing(server: Server, pid: int, replicas: int) -> Callable[[], None]:
    """Kill a process and wait until as many gateway replicas listen as before."""

    def do() -> None:
        os.kill(pid, signal.SIGKILL)

        def back() -> object:
            now = listeners(server)
            return (len(now) == replicas and pid not in now) or now

        eventually("the capacity is back", back, within_s=CAPACITY_BACK_WITHIN_S)

    return do


async def test_a_killed_replica_costs_what_it_held_and_comes_back(ray_colocated: Server) -> None:
    before = listeners(ray_colocated)
    assert len(before) == 2
    victim = min(before)
    tally = await under_load(ray_colocated, killing(ray_colocated, victim, 2), seed=1)
    assert tally.wrong == []
    assert tally.ended == tally.sent, "every request has an end"
    assert tally.refused_connections == 0, "the other replica answers meanwhile"
    assert tally.statuses.keys() <= {200, 503}
    lost = sum(tally.broken.values()) + tally.statuses[503]
    assert 0 < lost <= CLIENTS, "what was in flight in the victim, and no more"
    assert tally.statuses[200] > 200
    assert victim not in listeners(ray_colocated)


async def test_a_killed_worker_of_the_split_topology_is_replaced(ray_split: Server) -> None:
    """The gateway tries a lost batch on the other worker, so that callers see nothing of it, or a 503 at worst."""
    gateways = listeners(ray_split)
    assert len(gateways) == 1

    def workers() -> set[int]:
        found = set()
        for process in ray_split.processes():
            try:
                if "ServeReplica:gearshift:worker" in " ".join(process.cmdline()):
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found

    before = workers()
    assert len(before) == 2, [p.cmdline()[:2] for p in ray_split.processes()]
    victim = min(before)

    def kill() -> None:
        os.kill(victim, signal.SIGKILL)

        def back() -> object:
            now = workers()
            return (len(now) == 2 and victim not in now) or now

        eventually("two workers live", back, within_s=CAPACITY_BACK_WITHIN_S)

    tally = await under_load(ray_split, kill, seed=2)
    assert tally.wrong == []
    assert tally.ended == tally.sent
    assert not tally.broken
    assert tally.refused_connections == 0
    assert tally.statuses.keys() <= {200, 503}
    assert tally.statuses[503] <= CLIENTS
    assert tally.statuses[200] > 100
    assert listeners(ray_split) == gateways
    assert psutil.Process(ray_split.process.pid).is_running()


@pytest.mark.timeout(240)
async def test_a_rolling_replacement_fails_nobody(repository: Path, profile_cache: Path, tmp_path: Path) -> None:
    """Twice: once under clients that keep their connections, once under clients that connect for each request."""
    server = Server(
        "rolling",
        ("--models", str(repository)),
        cache=profile_cache,
        log=tmp_path / "rolling.log",
        command=("-m", "tests.integration.harness.rolling"),
    )
    replaced = 0

    def replace() -> None:
        nonlocal replaced
        replaced += 1
        assert server.process.stdin is not None
        server.process.stdin.write(b"\n")
        server.process.stdin.flush()
        eventually(
            "the replicas are replaced",
            lambda: server.log.read_text().count("replaced") == replaced or server.log_tail()[-500:],
            within_s=100,
        )

    with running(server):
        for keep_alive in (True, False):
            old = listeners(server)
            assert len(old) == 2
            tally = await under_load(server, replace, seed=3 + keep_alive, keep_alive=keep_alive, at_least=2000)
            assert tally.wrong == []
            assert tally.statuses.keys() == {200}, (keep_alive, tally)
            assert not tally.broken, (keep_alive, tally)
            assert tally.refused_connections == 0
            assert tally.sent >= 2000

            def renewed(old: set[int] = old) -> object:
                now = listeners(server)
                return (len(now) == 2 and not now & old) or now

            eventually("two new replicas listen, and only they", renewed, within_s=GONE_WITHIN_S + 20)
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.ended() == 0
