"""The `gearshift` command as a person uses it: what it prints works, what scripts read parses, exit codes tell."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.zoo.fashion import samples as samples_module
from tests.integration.conftest import Starter
from tests.integration.harness.families import plain_model
from tests.integration.harness.servers import ROOT, Server, serving_env
from tests.integration.harness.wire import tensor

SAMPLES = Path(samples_module.__file__).parent / "samples"
PICTURE = SAMPLES / "9-ankle-boot.png"

Done = subprocess.CompletedProcess[str]
Gearshift = Callable[..., Done]


@pytest.fixture
def gearshift(tmp_path: Path, profile_cache: Path) -> Gearshift:
    """Run the command in a folder of its own."""

    def run(*arguments: str | Path, stdin: bytes = b"", code: int = 0) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli.main", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            timeout=100,
            cwd=tmp_path,
            env=serving_env(profile_cache, tmp_path / "run") | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        told = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert told.returncode == code, f"{told.returncode}\n{told.stdout}\n{told.stderr}"
        assert "Traceback" not in told.stderr
        return told

    return run


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A bare ONNX file."""
    file = tmp_path / "plain.onnx"
    file.write_bytes(plain_model())
    return file


def test_a_bare_file_is_served_and_the_printed_line_works(start: Starter, plain: Path) -> None:
    server = start(str(plain), "--engine", "inprocess", models=False)
    (line,) = re.findall(r"^curl .*$", server.log.read_text(), re.MULTILINE)
    assert server.url in line
    answer = json.loads(subprocess.run(["sh", "-c", line], capture_output=True, check=True, timeout=60).stdout)
    assert answer["model_name"] == "plain"
    assert answer["outputs"][0]["data"] == [0.0, 0.0]
    assert "accuracy" not in answer["parameters"], "nobody measured it"
    assert server.stop() == 0


def test_a_file_of_any_name_is_served(start: Starter, plain: Path) -> None:
    server = start(str(plain.rename(plain.with_name("my model.onnx"))), "--engine", "inprocess", models=False)
    answer = httpx.post(f"{server.url}/v2/models/my-model/infer", json={"inputs": [tensor("x", "FP32", [[1, 2]])]})
    assert answer.json()["outputs"][0]["data"] == [2, 4]


def test_every_line_that_serve_prints_works(inprocess: Server) -> None:
    lines = re.findall(r"^(?:curl|python3) .*$", inprocess.log.read_text(), re.MULTILINE)
    assert len(lines) == 9, "one for each model"
    for line in lines:
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=True, timeout=60)
        assert "outputs" in json.loads(done.stdout), (line, done.stdout)


@pytest.mark.parametrize("form", ["png", "npy", "json array", "json request", "stdin"])
def test_infer_reads_pictures_arrays_and_json(
    inprocess: Server, gearshift: Gearshift, tmp_path: Path, form: str
) -> None:
    from PIL import Image

    pixels = np.asarray(Image.open(PICTURE).convert("L"))
    stdin = b""
    source: str | Path = tmp_path / "input"
    match form:
        case "png":
            source = PICTURE
        case "npy":
            with Path(source).open("wb") as file:
                np.save(file, pixels)
        case "json array":
            Path(source).write_text(json.dumps(pixels.tolist()))
        case "json request":
            image = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28], "data": pixels.ravel().tolist()}
            Path(source).write_text(json.dumps({"inputs": [image]}))
        case _:
            source, stdin = "-", PICTURE.read_bytes()
    done = gearshift("infer", "fashion", source, "--url", inprocess.url, "--budget", "20s", "--json", stdin=stdin)
    answer = json.loads(done.stdout)
    scores = answer["outputs"][0]["data"]
    assert int(np.argmax(scores)) == 9
    assert answer["parameters"]["reason"] == "most_accurate"
    assert done.stderr == ""


def test_infer_tells_a_person_what_and_why(inprocess: Server, gearshift: Gearshift) -> None:
    told = gearshift("infer", "fashion", PICTURE, "--url", inprocess.url, "--prefer", "latency").stdout
    assert "ankle-boot" in told
    assert "prefer_latency" in told
    assert "variant" in told
    pinned = gearshift(
        "infer", "scale", "-", "--url", inprocess.url, "--variant", "medium", "--json", stdin=b"[1, 2, 3, 4]"
    )
    answer = json.loads(pinned.stdout)
    assert answer["parameters"]["variant"] == "medium"
    assert answer["outputs"][0]["data"] == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "text"),
    [
        (("infer", "nobody", "-"), b"[1]", 1, "Request for unknown model: 'nobody' is not found"),
        (("infer", "scale", "-", "--min-accuracy", "0.99"), b"[1, 2, 3, 4]", 1, "nearest feasible"),
        (("infer", "scale", "-"), b"[1, 2, 3]", 1, "expected"),
        (("infer", "scale", "-"), b"neither", 2, "neither an image"),
        (("infer", "pair", "-"), b"[1]", 2, "several inputs"),
        (("infer", "scale", "missing.npy"), b"", 2, "cannot be read"),
        (("infer", "scale", "-", "--budget", "soon"), b"[1]", 2, "not a duration"),
        (("nothing",), b"", 2, "No such command"),
    ],
)
def test_exit_codes_of_infer(
    inprocess: Server, gearshift: Gearshift, arguments: tuple[str, ...], stdin: bytes, code: int, text: str
) -> None:
    url = ("--url", inprocess.url) if arguments[0] == "infer" else ()
    told = gearshift(*arguments, *url, stdin=stdin, code=code)
    assert text in " ".join(re.sub(r"[│╭╮╰╯─]", " ", told.stderr).split())


def test_infer_without_a_server_says_so(gearshift: Gearshift) -> None:
    told = gearshift("infer", "scale", "-", "--url", "http://127.0.0.1:9", stdin=b"[1]", code=1)
    assert "is gearshift serve running?" in " ".join(told.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("serve", "missing.onnx"), "cannot be read"),
        (("serve", "--models", "missing"), "no such folder"),
        (("serve", "--engine", "steam"), "engine.kind"),
        (("serve", "a.onnx", "--models", "b"), "not both"),
        (("serve", "--config", "missing.toml"), "cannot be read"),
    ],
)
def test_serve_refuses_what_it_cannot_serve(gearshift: Gearshift, arguments: tuple[str, ...], text: str) -> None:
    told = gearshift(*arguments, code=2)
    assert text in " ".join(re.sub(r"[│╭╮╰╯─]", " ", told.stderr).split())


def test_a_model_is_added_listed_shown_calibrated_and_served(
    gearshift: Gearshift, start: Starter, plain: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("left\nright\n")
    added = gearshift("models", "add", "mine", plain, "--accuracy", "0.9", "--label-file", labels, "--json")
    folder = json.loads(added.stdout)["folder"]
    assert (tmp_path / folder / "family.json").is_file()
    again = gearshift("models", "add", "mine", plain, code=2)
    assert "a version never changes" in again.stderr
    gearshift("models", "add", "mine", plain, "--version", "2")

    repository = tmp_path / "gearshift-models"
    listed = json.loads(gearshift("models", "list", "--models", repository, "--json").stdout)
    assert [(entry["name"], entry["version"]) for entry in listed["families"]] == [("mine", "1"), ("mine", "2")]
    assert listed["refused"] == []

    shown = json.loads(gearshift("models", "show", "mine", "--models", repository, "--json").stdout)
    assert shown["version"] == "2"
    gearshift("models", "show", "nobody", "--models", repository, code=2)

    measured = json.loads(gearshift("calibrate", "--models", repository, "--json").stdout)
    (variant,) = measured["families"][0]["variants"]
    assert variant["ms_at_1"] > 0
    known = json.loads(gearshift("models", "show", "mine", "--models", repository, "--json").stdout)
    assert known["variants"][0]["ms_at_1"] > 0, "what was measured is remembered"

    server = start("--models", str(repository), "--engine", "inprocess", models=False)
    one = ("infer", "mine", "-", "--url", server.url)
    assert json.loads(gearshift(*one, "--json", stdin=b"[1, 5]").stdout)["outputs"][0]["data"] == [2, 10]
    assert server.stop() == 0


def test_a_damaged_version_is_told_and_the_rest_is_listed(gearshift: Gearshift, plain: Path, tmp_path: Path) -> None:
    repository = tmp_path / "gearshift-models"
    gearshift("models", "add", "good", plain)
    (repository / "bad" / "1").mkdir(parents=True)
    (repository / "bad" / "1" / "family.json").write_text("{")
    listed = json.loads(gearshift("models", "list", "--models", repository, "--json").stdout)
    assert [entry["name"] for entry in listed["families"]] == ["good"]
    assert [entry["version"] for entry in listed["refused"]] == ["bad/1"]


def test_the_demo_families_are_listed_and_shown_without_options(gearshift: Gearshift) -> None:
    assert re.match(r"fashion 1  \d+ variants[^\n]*\n(.*\n)*text 1  \d+ variants", gearshift("models", "list").stdout)
    assert "ids INT64 [-1, -1]" in gearshift("models", "show", "text").stdout
    shown = gearshift("models", "show", "fashion").stdout
    assert "image UINT8 [-1, 28, 28]" in shown
    assert re.search(r"accuracy +size", shown)


def test_doctor_looks_at_everything_and_tells_scripts(gearshift: Gearshift, inprocess: Server) -> None:
    told = json.loads(gearshift("doctor", "--json").stdout)
    assert told["ok"] is True
    looked_at = {finding["what"] for finding in told["findings"]}
    assert {"Python", "cores", "memory", "ONNX Runtime", "Ray", "models", "API port", "versions"} <= looked_at
    assert "ONNX Runtime" in gearshift("doctor").stdout
    broken = json.loads(gearshift("doctor", "--models", "missing", "--json", code=1).stdout)
    assert broken["ok"] is False
    assert [f["what"] for f in broken["findings"] if f["status"] == "fail"] == ["models"]


def test_version_and_help(gearshift: Gearshift) -> None:
    assert re.fullmatch(r"gearshift \d+\.\d+\.\d+\n", gearshift("--version").stdout)
    verbs = gearshift("--help").stdout
    assert all(verb in verbs for verb in ("serve", "infer", "models", "calibrate", "doctor"))
