"""`gearshift compress` in a process of its own: stopped and killed it goes on, and what it publishes is served."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.repository import open_repository
from tests.integration.conftest import Starter
from tests.integration.harness.servers import ROOT, eventually
from tests.integration.harness.wire import outputs_of, tensor

pytest.importorskip("onnxslim", reason="compressing needs more than serving does")

from tests.support import linear

PASSES = "classical,weight-only,half,int8-dynamic,fuse"
WITHIN_S = 100.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a model of some size, and its data."""
    random = np.random.default_rng(0)
    (tmp_path / "model.onnx").write_bytes(linear.deep_content(random))
    rows = linear.rows(600, signs=True)
    np.savez(tmp_path / "data.npz", x=rows.inputs["x"], labels=rows.labels)
    return tmp_path


@pytest.fixture
def compress(folder: Path) -> Iterator:
    """Start the command; what is still running at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "deployments.cli.main", "compress", "model.onnx", "--data", "data.npz",
                "--out", "families", "--cache-dir", "cache", "--passes", PASSES, "--time-budget", "60s", *options,
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def remembered(folder: Path) -> dict[Path, int]:
    """Entries of the store, whole ones, with the time they were written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "cache").glob("??/*.json")}


def test_killed_in_the_middle_it_leaves_nothing_to_serve_and_goes_on(compress, folder: Path) -> None:
    process = compress()
    eventually("something is remembered", lambda: len(remembered(folder)) >= 3 or len(remembered(folder)), WITHIN_S)
    process.kill()
    assert process.wait(WITHIN_S) == -signal.SIGKILL
    assert not (folder / "families").exists()
    before = remembered(folder)

    done = compress()
    told, errors = done.communicate(timeout=WITHIN_S)
    assert done.returncode == 0, errors
    assert "families/model/1" in told
    after = remembered(folder)
    assert {path: after[path] for path in before} == before, "what was made is not made again"
    assert len(after) > len(before)
    listing = open_repository(folder / "families")
    assert not listing.refused
    assert [artifact.key for artifact in listing.artifacts] == ["model/1"]


def test_an_interrupt_is_an_end_without_a_traceback(compress, folder: Path) -> None:
    process = compress()
    eventually("something is remembered", lambda: len(remembered(folder)) >= 2 or len(remembered(folder)), WITHIN_S)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130, errors
    assert "stopped: nothing was published; the same command goes on from here" in errors
    assert "Traceback" not in errors
    assert not (folder / "families").exists()


def test_what_is_published_is_served_and_budgets_choose(compress, folder: Path, start: Starter) -> None:
    made = compress("--labels", "one,two,three,four")
    told, errors = made.communicate(timeout=WITHIN_S)
    assert made.returncode == 0, errors
    assert re.search(r"serve it: gearshift serve --models families", told)

    server = start("--models", str(folder / "families"), "--engine", "inprocess", models=False)
    described = httpx.get(f"{server.url}/v2/models/model", timeout=30).json()
    variants = {variant["name"]: variant for variant in described["gearshift"]["variants"]}
    assert len(variants) >= 2
    rows = linear.rows(4, signs=True)
    request = {"inputs": [tensor("x", "FP32", rows.inputs["x"])]}
    for name in variants:
        answer = httpx.post(
            f"{server.url}/v2/models/model/infer", json={**request, "parameters": {"variant": name}}, timeout=30
        ).json()
        assert answer["parameters"]["variant"] == name
        assert outputs_of(answer)["scores"].shape == (4, linear.CLASSES)

    chosen = {}
    for wish in ("accuracy", "latency"):
        answer = httpx.post(
            f"{server.url}/v2/models/model/infer", json={**request, "parameters": {"prefer": wish}}, timeout=30
        ).json()
        chosen[wish] = variants[answer["parameters"]["variant"]]
    assert chosen["accuracy"]["accuracy"] == max(variant["accuracy"] for variant in variants.values())
    assert chosen["latency"]["accuracy"] < chosen["accuracy"]["accuracy"], "speed is bought with accuracy"
    assert server.stop() == 0
