"""One real cluster per test, in a process of its own: Ray fixes its environment for a process's life."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from deployments.processes import end_processes, ray_processes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

DRIVER = """
import asyncio, json, os, sys
from pathlib import Path
from deployments.options import configure_environment
from deployments.cluster import start_cluster
configure_environment()
folder = Path(sys.argv[1])
with start_cluster(folder, progress=lambda text: print(text, file=sys.stderr, flush=True)) as cluster:
    from ray import serve

    class Drains:
        async def __call__(self):
            return os.getpid()

        async def __del__(self):
            await asyncio.sleep(0.5)
            (folder / "drained").touch()

    options = {"graceful_shutdown_wait_loop_s": 0.05, "ray_actor_options": {"num_cpus": 0.1}}
    application = serve.deployment(**options)(Drains).bind()
    cluster.deploy(application, name="app", timeout_s=60, progress=lambda text: None)

    async def call():
        return await serve.get_app_handle("app").remote()

    replica = asyncio.run(call())
    ports = {}
    for process in cluster.processes():
        for connection in process.net_connections("inet"):
            if connection.status == "LISTEN":
                ports[connection.laddr.port] = [process.pid, connection.laddr.ip]
    pids = [process.pid for process in cluster.processes()]
    print(json.dumps({"pids": pids, "ports": ports, "replica": replica}), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gs-") as name:
        yield Path(name)


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver; killed with everything of its cluster when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"RAY_ADDRESS": "192.0.2.1:6379"},  # must be ignored
        start_new_session=True,
    ) as driver:
        try:
            yield driver
        finally:
            driver.kill()
            end_processes(ray_processes(folder / "ray"))


def report(driver: subprocess.Popen[str]) -> dict[str, Any]:
    assert driver.stdout is not None
    line = driver.stdout.readline()
    assert line, f"the driver ended with {driver.wait(10)}"
    told: dict[str, Any] = json.loads(line)
    return told


def stop(driver: subprocess.Popen[str]) -> int:
    driver.communicate("stop\n", timeout=60)
    return driver.returncode


def test_a_cluster_is_closed_to_others_survives_the_terminal_and_leaves_nothing(folder: Path) -> None:
    with running(folder) as driver:
        told = report(driver)
        assert told["replica"] in told["pids"]

        outward = {port: pid for port, (pid, ip) in told["ports"].items() if ip.removeprefix("::ffff:") != "127.0.0.1"}
        # Serve binds one gRPC port of a replica on all interfaces. It must not answer without the token.
        assert set(outward.values()) == {told["replica"]}
        for port in outward:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                with pytest.raises(grpc.RpcError) as refused:
                    call(b"", timeout=10)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

        for pid in told["pids"]:  # what a terminal does on Ctrl-C and when it closes, the driver left out
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGHUP)
        assert all(psutil.pid_exists(pid) for pid in told["pids"])

        assert stop(driver) == 0
        assert (folder / "drained").exists(), "the replica was stopped before its __del__ had ended"
        assert ray_processes(folder / "ray") == []
        assert not (folder / "ray").exists()


def test_a_killed_run_is_cleaned_up_by_the_next_and_a_live_one_is_left_alone(folder: Path) -> None:
    with running(folder) as first:
        killed = report(first)
        first.kill()
        first.wait()
        assert ray_processes(folder / "ray"), "Ray's agents outlive a killed driver by a minute"

        with running(folder) as second:
            told = report(second)
            assert not set(told["pids"]) & set(killed["pids"])
            assert not [pid for pid in killed["pids"] if psutil.pid_exists(pid)]

            third = subprocess.run(
                [sys.executable, "-c", DRIVER, str(folder)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                cwd=Path(__file__).parents[2],
            )
            assert "another Gearshift runs with the runtime folder" in third.stderr
            assert stop(second) == 0
