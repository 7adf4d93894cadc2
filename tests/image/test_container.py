"""Containers of the image under a cluster's limits: read-only, no rights, two cores or one, 2 GiB."""

import json
import subprocess
import sys
import time

import pytest

from tests.image.harness.container import Container
from tests.image.harness.engine import HARNESS

pytestmark = [pytest.mark.image, pytest.mark.timeout(1500)]

CLIENT_S = 120.0
LONG_MS = 120_000


def infer(container: Container, *, rows: int = 3, protocol: str = "http") -> dict[str, object]:
    """What a client in its own process got."""
    address = f"127.0.0.1:{container.ports[f'{protocol}_port']}"
    done = subprocess.run(
        [sys.executable, str(HARNESS / "client.py"), protocol, address, str(rows)],
        capture_output=True, text=True, timeout=CLIENT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_it_answers(server: Container) -> None:
    assert infer(server) == {"model": "fashion", "shape": [3, 10]}


def test_it_answers_over_grpc(server: Container) -> None:
    assert infer(server, protocol="grpc") == {"model": "fashion", "shape": [3, 10]}


def test_it_counts_what_it_answers(server: Container) -> None:
    before = server.metric("gearshift_rows_total")
    infer(server, rows=5)
    assert server.metric("gearshift_rows_total") == before + 5


def test_it_runs_as_nobody_special_and_can_write_only_where_it_must(server: Container) -> None:
    assert server.shell("id -u; id -g").split() == ["10001", "10001"]
    assert server.execute("touch", "/usr/local/bin/gearshift").returncode != 0
    assert server.execute("touch", "/var/lib/probe").returncode != 0
    server.shell("touch /tmp/probe ~/probe && rm /tmp/probe ~/probe && test ~ = /var/lib/gearshift")
    assert server.shell("grep CapEff /proc/1/status").split()[1] == "0" * 16


def test_probes_of_kuberay_work(server: Container) -> None:
    """KubeRay asks Ray by `bash -c "wget ... | grep ..."`; the same against our page."""
    port = server.ports["http_port"]
    server.shell(f"wget --tries 1 -T 2 -q -O- http://localhost:{port}/v2 | grep gearshift")


def test_it_keeps_to_its_limits(server: Container) -> None:
    assert server.state("OOMKilled") == "false"
    code = "from serving.config import cgroup_memory_bytes, usable_cores; print(usable_cores(), cgroup_memory_bytes())"
    cores, memory = server.shell(f"python3 -c '{code}'").split()
    assert int(cores) <= 2
    assert memory == str(2 * 1024**3)


def test_no_worker_of_ray_sits_idle_for_cores_it_may_not_use(server: Container) -> None:
    """However many cores the host has."""
    script = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $file 2>/dev/null; echo; done"
    titles = [line.strip() for line in server.shell(script).splitlines()]
    assert sum(title.startswith("ray::ServeReplica") for title in titles) == 1
    assert titles.count("ray::IDLE") <= 2


def test_profiles_are_kept_in_the_volume(server: Container) -> None:
    assert int(server.shell("ls ~/.cache/gearshift/profiles | wc -l")) > 0


def test_split_over_workers_on_one_core(split: Container) -> None:
    assert infer(split) == {"model": "fashion", "shape": [3, 10]}
    assert split.metric("gearshift_workers") == 1


@pytest.mark.parametrize("name", ["split", "server"])
def test_sigterm_lets_what_was_accepted_finish(name: str, request: pytest.FixtureRequest) -> None:
    """Last of each container: it is stopped while a request of about a second is computed."""
    container: Container = request.getfixturevalue(name)
    parameters = json.dumps({"variant": "resnet-32-fp32-committee-mirror", "latency_budget_ms": LONG_MS})
    address = f"127.0.0.1:{container.ports['http_port']}"
    with subprocess.Popen(
        [sys.executable, str(HARNESS / "client.py"), "http", address, "256", parameters],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip
        deadline_s = time.monotonic() + CLIENT_S
        while container.metric("gearshift_workers_busy") == 0:
            assert client.poll() is None, client.communicate()[1]
            assert time.monotonic() < deadline_s
        code = container.stop()
        printed, errors = client.communicate(timeout=CLIENT_S)
    assert client.returncode == 0, errors
    assert json.loads(printed)["shape"] == [256, 10]
    assert code == 0
    assert container.state("OOMKilled") == "false"
