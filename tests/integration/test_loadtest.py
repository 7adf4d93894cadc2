"""Live load tests as users run them: one command, locust itself, several workers, and all that goes wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.live import read_live_run
from loadtests.scenario import read_scenario
from loadtests.target import read_target
from loadtests.workload import calls
from tests.integration.harness.servers import ROOT, Server, eventually, free_port
from tests.support.fake_gateway import FakeGateway, answered

SCENARIO = """
name = "short"
{end}
[arrivals]
kind = "poisson"
rate = {rate}
[[classes]]
name = "plain"
model = "{model}"
latency_ms = {latency_ms}
[[classes]]
name = "album"
model = "{model}"
rows = {{ 1 = 0.5, 3 = 0.5 }}
latency_ms = {latency_ms}
payload = {{ encoding = "json" }}
"""
CLI = (sys.executable, "-m", "deployments.cli.main", "loadtest")
LOCUST = (sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"))
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[..., Path]:
    """Write a scenario of two classes."""

    def write(
        model: str = "tiny", rate: float = 50, end: str = "duration_s = 2", latency_ms: float = 1000, name: str = "s"
    ) -> Path:
        file = tmp_path / f"{name}.toml"
        file.write_text(SCENARIO.format(model=model, rate=rate, end=end, latency_ms=latency_ms))
        return file

    return write


@pytest.fixture
def fake() -> Iterator[Callable[..., FakeGateway]]:
    """Start gateways that only seem to serve."""
    started: list[FakeGateway] = []

    def start(reply: Callable[[int], tuple[int, dict]] = lambda _: answered()) -> FakeGateway:
        started.append(FakeGateway(reply))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


def run(*words: object, code: int, folder: Path) -> Done:
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment(), capture_output=True, text=True, timeout=90
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEARSHIFT_", "LOCUST_"))}
    return kept | {"PYTHONPATH": str(ROOT)}


@pytest.mark.server
def test_one_command_measures_a_real_gateway(inprocess: Server, scenario: Callable[..., Path], tmp_path: Path) -> None:
    before = inprocess.outcomes("fashion")
    file = scenario("fashion", end="requests = 100")
    done = run(*CLI, file, "--host", inprocess.url, "--json", "live.json", "--label", "ours", code=0, folder=tmp_path)
    live = read_live_run(tmp_path / "live.json")
    assert live.complete
    assert live.label == "ours"
    assert live.metrics.requests == 100
    after = inprocess.outcomes("fashion")
    assert sum(after.values()) - sum(before.values()) == 100, "the server counts the same requests"
    assert sum(live.metrics.variant_rows["fashion"].values()) == round(live.metrics.attainment * live.metrics.rows)
    assert 0.5 < live.metrics.served_accuracy < 1
    assert live.metrics.batches > 0
    assert live.metrics.cpu_s > 0
    assert "ours" in live.command
    for word in ("plain", "album", "all", "generator:"):
        assert word in done.stdout


@pytest.mark.server
def test_a_budget_nobody_can_meet_is_told(inprocess: Server, scenario: Callable[..., Path], tmp_path: Path) -> None:
    file = scenario("fashion", end="requests = 20", latency_ms=0.001)
    done = run(*CLI, file, "--host", inprocess.url, "--json", "live.json", code=1, folder=tmp_path)
    live = read_live_run(tmp_path / "live.json")
    assert live.metrics.infeasible == live.metrics.rejected == 20
    assert live.metrics.attainment == 0
    assert "422: " in done.stdout


def test_locust_runs_it_headless_with_tags(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    file = scenario()
    host = fake().url
    run(
        *LOCUST, "--headless", "--host", host, "--scenario", file, "--tags", "album", "--run-json", "live.json",
        "--csv", "stats", code=0, folder=tmp_path,
    )  # fmt: skip
    live = read_live_run(tmp_path / "live.json")
    assert live.by_class["plain"].requests == 0
    models = read_target(["tiny"], lambda path: httpx.get(host + path).json())
    expected = [call.at_s for call in calls(read_scenario(file), {}) if call.kind == "album"]
    assert live.requests["at_s"] == pytest.approx(expected, abs=1e-6)
    assert models == live.models
    stats = (tmp_path / "stats_stats.csv").read_text()
    assert f"POST,album,{len(expected)},0," in stats
    assert "plain" not in stats


def test_two_workers_send_the_very_stream_of_one(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    file, port = scenario(), free_port()
    gateway = fake()
    workers = [
        subprocess.Popen(
            [*LOCUST, "--worker", "--master-port", str(port)], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        run(
            *LOCUST, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", 2,
            "--headless", "--host", gateway.url, "--scenario", file, "--run-json", "live.json",
            code=0, folder=tmp_path,
        )  # fmt: skip
        for worker in workers:
            _, said = worker.communicate(timeout=30)
            assert worker.returncode == 0
            assert b"Traceback" not in said, said.decode()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    live = read_live_run(tmp_path / "live.json")
    expected = list(calls(read_scenario(file), {}))
    assert live.complete
    assert live.sender.processes == 2
    assert live.requests["at_s"] == pytest.approx([call.at_s for call in expected], abs=1e-6)
    assert live.requests["rows"] == [call.rows for call in expected]
    assert gateway.requests == len(expected)


def test_the_web_ui_starts_and_stops_runs(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    port, gateway = free_port(), fake()
    process = subprocess.Popen(
        [
            *LOCUST, "--web-host", "127.0.0.1", "--web-port", str(port), "--host", gateway.url,
            "--scenario", str(scenario(end="duration_s = 60")), "--run-json", "live.json",
        ],
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    out = tmp_path / "live.json"

    def reachable() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.HTTPError:
            return False

    def listed() -> set[str]:
        return {entry["name"] for entry in httpx.get(f"{url}/stats/requests").json()["stats"]}

    try:
        eventually("the web UI is up", reachable, 30)
        for _ in range(2):
            out.unlink(missing_ok=True)
            before = gateway.requests
            assert httpx.post(f"{url}/swarm", data={"user_count": 1, "spawn_rate": 1}).json()["success"]
            eventually("requests come", lambda: gateway.requests > before + 20, 30)  # noqa: B023  # called at once
            eventually("statistics are listed by class", lambda: {"plain", "album"} <= listed(), 10)
            assert httpx.post(f"{url}/stop").json()["success"]
            eventually("the run is written", out.exists, 10)
            live = read_live_run(out)
            assert not live.complete
            assert live.ended == "stopped before its end"
            assert live.metrics.requests > 20
            assert live.requests["at_s"][0] < 1, "each run begins at the beginning"
    finally:
        process.terminate()  # Ctrl-C may hit gevent's web server in the middle of an answer, and it shows where
        _, said = process.communicate(timeout=30)
    assert b"Traceback" not in said, said.decode()


def test_a_stalling_server_cannot_hide(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    """Request 20 begins a stall of a second for everybody: all that were due in it have waited for its end."""
    stall = threading.Event()
    began: list[float] = []

    def reply(number: int) -> tuple[int, dict]:
        if number == 20:
            began.append(time.monotonic())
            threading.Timer(1.0, stall.set).start()
        if number >= 20:
            stall.wait()
        return answered()

    gateway = fake(reply)
    run(
        *CLI, scenario(latency_ms=500, end="duration_s = 3"), "--host", gateway.url, "--json", "live.json",
        code=0, folder=tmp_path,
    )  # fmt: skip
    live = read_live_run(tmp_path / "live.json")
    at, latency = live.requests["at_s"], live.requests["latency_s"]
    # Latency is that of arrival at the fake, too, so what is asked is only what must hold: the intended end is common.
    begin_s = at[19]
    for at_s, seconds in zip(at, latency, strict=True):
        if begin_s + 0.05 < at_s < begin_s + 0.9:
            assert at_s + seconds >= begin_s + 0.99
    due = sum(begin_s <= at_s < begin_s + 0.5 for at_s in at)
    assert due >= 10
    assert live.metrics.late >= due, "each of them missed its half second, not only the one that stalled"


def test_a_host_that_dies_leaves_what_was_measured(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    def reply(number: int) -> tuple[int, dict]:
        if number == 30:
            gateway.die()
        return answered()

    gateway = fake(reply)
    file = scenario(end="duration_s = 60")
    done = run(*CLI, file, "--host", gateway.url, "--json", "live.json", code=1, folder=tmp_path)
    live = read_live_run(tmp_path / "live.json")
    assert not live.complete
    assert "stopped answering" in live.ended
    assert "what was measured until then is kept" in " ".join(done.stderr.split())
    assert live.metrics.variant_rows["tiny"]["large"] >= 29
    assert live.failed >= 5
    assert max(live.requests["at_s"]) < 30


def test_ctrl_c_keeps_what_was_measured(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    gateway = fake()
    command = [*CLI, str(scenario(end="duration_s = 60")), "--host", gateway.url, "--json", "live.json"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually("requests come", lambda: gateway.requests > 20, 30)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"plain" in said
    assert b"stopped before its end" in wrong
    assert b"Traceback" not in wrong
    assert read_live_run(tmp_path / "live.json").metrics.requests >= 20


def test_what_is_wrong_is_told_before_anything_is_sent(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    file = scenario()
    gateway = fake()
    nobody = f"http://127.0.0.1:{free_port()}"

    def told(*words: object, code: int, command: tuple[str, ...] = CLI) -> str:
        return " ".join(run(*command, *words, code=code, folder=tmp_path).stderr.split())

    assert f"{nobody} does not answer" in told(file, "--host", nobody, code=1)
    headless = ("--headless", "--only-summary", "--scenario", file, "--host")
    assert f"{nobody} cannot be load tested" in told(*headless, nobody, code=1, command=LOCUST)
    assert "no scenario was given" in told("--headless", "--host", nobody, code=2, command=LOCUST)
    assert "cannot be read" in told("nowhere.toml", code=2)
    assert "unknown model" in told(scenario("other", name="other"), "--host", gateway.url, code=1)
    assert "its tags are: album, plain, tiny" in told(file, "--host", gateway.url, "--tag", "gold", code=1)
    (tmp_path / "trace.csv").write_text("0\n1\nnonsense\n")
    trace = tmp_path / "trace.toml"
    classes = '[[classes]]\nname = "plain"\nmodel = "tiny"\nlatency_ms = 9\n'
    trace.write_text(f'name = "t"\n[arrivals]\nkind = "trace"\nfile = "trace.csv"\ncompression = 1\n{classes}')
    assert "line 3: 'nonsense' is not a number" in told(trace, "--host", gateway.url, code=2)
    broken = scenario(name="broken")
    broken.write_text(broken.read_text().replace('encoding = "json"', 'file = "nowhere.json"'))
    assert "payload file" in told(broken, "--host", gateway.url, code=1)
    assert gateway.requests == 0


def test_live_and_simulated_are_compared(
    fake: Callable[..., FakeGateway], scenario: Callable[..., Path], tmp_path: Path
) -> None:
    run(
        *CLI, scenario(), "--host", fake().url, "--json", "live.json", "--report", "report", code=0, folder=tmp_path
    )  # fmt: skip
    study = json.loads((tmp_path / "report" / "report.json").read_text())
    (cell,) = study["cells"]
    assert set(cell["policies"]) == {"look-ahead", "fixed:fastest"}
    compare = (sys.executable, "-m", "loadtests.compare", "live.json", "report/report.json")
    assert "agrees" in run(*compare, code=0, folder=tmp_path).stdout, "it agrees with itself"
    cell["policies"]["look-ahead"]["attainment"] -= 0.03
    (tmp_path / "report" / "report.json").write_text(json.dumps(study))
    assert "DIFFERS" in run(*compare, code=1, folder=tmp_path).stdout
