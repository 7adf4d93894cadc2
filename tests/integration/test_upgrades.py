"""What is served changes under load, by each way it can: no request may fail by it, no answer come from elsewhere."""

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import Starter
from tests.integration.harness.crowd import Tally, crowd
from tests.integration.harness.servers import ROOT, Server, eventually
from tests.integration.harness.steps import change, index_of, publish_step, put_plain, step_questions

CLIENTS = 6
EXPLICIT = {"GEARSHIFT_MODELS__CONTROL": "explicit", "GEARSHIFT_MODELS__VERSIONS": "latest"}
POLL = {
    "GEARSHIFT_MODELS__CONTROL": "poll",
    "GEARSHIFT_MODELS__POLL_S": "0.3",
    "GEARSHIFT_MODELS__VERSIONS": "latest",
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    publish_step(root, 1)
    return root


def serve(start: Starter, models: Path, env: dict[str, str], *options: str) -> Server:
    return start("--models", str(models), *(options or ("--engine", "inprocess")), models=False, env=env)


def under_load(server: Server, act: Callable[[], None], *, name: str = "step") -> Tally:
    """What happened to the requests of a steady crowd while `act` ran."""
    done = threading.Event()
    found: list[Tally] = []

    def load() -> None:
        questions = [step_questions(seed, name=name) for seed in range(CLIENTS)]
        found.append(asyncio.run(crowd((server.host, server.port), questions, lambda _: not done.is_set())))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        act()
    finally:
        done.set()
        thread.join()
    return found[0]


def assert_nothing_failed(tally: Tally) -> None:
    assert tally.wrong == []
    assert tally.broken == {}
    assert set(tally.statuses) == {200}, tally.statuses
    assert tally.ended == tally.sent > 50


def version_of(server: Server, name: str = "step") -> str:
    told = httpx.get(f"{server.url}/v2/models/{name}", timeout=60).raise_for_status().json()
    return str(told["gearshift"]["version"])


def test_five_upgrades_under_load_lose_no_request(start: Starter, models: Path) -> None:
    server = serve(start, models, EXPLICIT | {"GEARSHIFT_MODELS__LOAD": "step"})

    def upgrade() -> None:
        for version in range(2, 7):
            publish_step(models, version)
            assert change(server, "load", "step").status_code == 200
            assert version_of(server) == str(version)

    assert_nothing_failed(under_load(server, upgrade))
    assert version_of(server) == "6"
    eventually(
        "old versions end", lambda: {k: s for k, (s, _) in index_of(server, ready=True).items()} == {"step/6": "READY"}
    )
    assert index_of(server)["step/5"] == ("UNAVAILABLE", "unloaded")
    assert server.metric("gearshift_model_loads_total", model="step", result="loaded") == 6
    assert server.metric("gearshift_model_loads_total", model="step", result="unloaded") == 5
    assert server.metric("gearshift_variant_ready", model="step", version="5") == 0
    assert server.metric("gearshift_variant_ready", model="step", version="6") == 1


def test_unloading_one_model_leaves_the_other_alone_and_finishes_its_own(start: Starter, models: Path) -> None:
    publish_step(models, 1, name="other")
    server = serve(start, models, EXPLICIT | {"GEARSHIFT_MODELS__LOAD": "*"})
    of_other: list[Tally] = []

    def flap() -> None:
        def turns() -> None:
            for _ in range(4):
                assert change(server, "unload", "other").status_code == 200
                assert change(server, "load", "other").status_code == 200

        of_other.append(under_load(server, turns, name="other"))

    assert_nothing_failed(under_load(server, flap))
    (tally,) = of_other
    assert tally.wrong == []
    assert tally.broken == {}
    assert set(tally.statuses) <= {200, 404}, "a request was neither answered nor told that the model is gone"
    assert tally.statuses[404] > 0 < tally.statuses[200]


def test_a_version_that_does_not_load_disturbs_nobody(start: Starter, models: Path) -> None:
    server = serve(start, models, EXPLICIT | {"GEARSHIFT_MODELS__LOAD": "step"})

    def try_bad_ones() -> None:
        damaged = publish_step(models, 2)
        content = bytearray((damaged / "only.onnx").read_bytes())
        content[-1] ^= 1
        (damaged / "only.onnx").write_bytes(content)
        answer = change(server, "load", "step")
        assert answer.status_code == 200, "the version before it is whole, and goes on"
        assert "SHA-256 is" in index_of(server)["step/2"][1]
        junk = models / "junk" / "1"
        junk.mkdir(parents=True)
        (junk / "model.onnx").write_bytes(b"not a model")
        answer = change(server, "load", "junk")
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("failed to load 'junk', no version is available: version 1: ")

    assert_nothing_failed(under_load(server, try_bad_ones))
    assert version_of(server) == "1"
    state, reason = index_of(server)["junk/1"]
    assert state == "UNAVAILABLE"
    assert "tried in a process of its own, it failed" in reason
    assert "not served: step/2" in server.log_tail()


def test_polling_finds_what_is_whole_and_waits_for_the_rest(start: Starter, models: Path) -> None:
    server = serve(start, models, POLL)
    assert change(server, "load", "step").json() == {
        "error": "explicit model load / unload is not allowed if polling is enabled"
    }

    def publish_slowly() -> None:
        whole = publish_step(models.parent / "elsewhere", 2)
        half = models / "step" / "2"
        half.mkdir()
        shutil.copy(whole / "family.json", half)
        eventually("the half version is seen", lambda: "missing" in index_of(server).get("step/2", ("", ""))[1])
        (half / "only.onnx").write_bytes((whole / "only.onnx").read_bytes()[:40])
        eventually("it is looked at again", lambda: "SHA-256" in index_of(server).get("step/2", ("", ""))[1])
        assert version_of(server) == "1"
        shutil.copy(whole / "only.onnx", half)
        eventually("the whole one is served", lambda: version_of(server) == "2", within_s=60)
        put_plain(models, 3)
        eventually("a new model is found", lambda: index_of(server).get("plain/3", ("", ""))[0] == "READY", within_s=60)
        shutil.rmtree(models / "step" / "2")
        eventually("a version that is gone goes", lambda: version_of(server) == "1", within_s=60)

    assert_nothing_failed(under_load(server, publish_slowly))
    shutil.rmtree(models / "plain")
    eventually("a model that is gone goes", lambda: "plain/3" not in index_of(server, ready=True), within_s=60)
    models.rename(models.with_name("away"))
    eventually("trouble is told", lambda: "the repository cannot be polled" in server.log_tail())
    assert version_of(server) == "1", "what is served stays when the repository cannot be read"


def test_an_object_store_is_mirrored(start: Starter, models: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    server = serve(start, f"file://{models}", POLL | {"GEARSHIFT_MODELS__MIRROR_DIR": str(mirror)})  # type: ignore[arg-type]
    assert version_of(server) == "1"
    publish_step(models, 2)
    eventually("the next version comes", lambda: version_of(server) == "2", within_s=60)
    assert {path.parent.name for path in mirror.rglob("only.onnx")} == {"1", "2"}


@pytest.mark.parametrize("script", ["repository.py", "repository_grpc.py"])
def test_tritonclient_loads_and_unloads(start: Starter, models: Path, script: str) -> None:
    server = serve(start, models, EXPLICIT)
    assert index_of(server) == {"step/": ("", "")}, "nothing is loaded, so nothing was looked into"
    address = server.url if script == "repository.py" else f"{server.host}:{server.grpc_port}"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "integration" / "clients" / script), address],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    assert set(report.values()) == {None}, report


@pytest.mark.ray
def test_two_replicas_change_together(start: Starter, models: Path) -> None:
    server = serve(
        start, models, EXPLICIT | {"GEARSHIFT_MODELS__LOAD": "step"}, "--engine", "ray", "--replicas", "2"
    )  # fmt: skip

    def upgrade() -> None:
        for version in (2, 3):
            publish_step(models, version)
            answer = change(server, "load", "step")
            assert answer.status_code == 200, answer.text
            # New connections reach either replica: each must be there already.
            assert {version_of(server) for _ in range(12)} == {str(version)}

    assert_nothing_failed(under_load(server, upgrade))
    assert change(server, "unload", "step").status_code == 200
    found = [httpx.get(f"{server.url}/v2/models/step", timeout=60).status_code for _ in range(12)]
    assert set(found) == {404}


@pytest.mark.ray
def test_workers_of_the_split_topology_change_too(start: Starter, models: Path) -> None:
    server = serve(
        start, models, POLL, "--engine", "ray", "--topology", "split", "--workers", "2"
    )  # fmt: skip

    def upgrade() -> None:
        for version in (2, 3):
            publish_step(models, version)
            eventually("the next version serves", lambda v=version: version_of(server) == str(v), within_s=60)

    assert_nothing_failed(under_load(server, upgrade))
    publish_step(models, 1, name="late")
    eventually("a new model comes", lambda: index_of(server).get("late/1", ("", ""))[0] == "READY", within_s=60)
    tally = under_load(
        server,
        lambda: eventually("it answers", lambda: server.outcomes("late")["met"] > 100 or server.outcomes("late"), 60),
        name="late",
    )
    assert_nothing_failed(tally)
