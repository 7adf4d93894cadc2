"""`gearshift cascade` from the files to the next version, with models whose doubt is known."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from deployments.cli.main import app
from models import calibrate
from models.cascade import WENT_ON
from models.manifest import ESCALATED, Family, LatencyProfile, TensorSpec, Variant
from models.repository import open_family, publish
from models.runner import open_variants
from tests.support import linear

SEES_HALF = np.eye(linear.CLASSES, dtype=np.float32).repeat(2, axis=0) * np.tile([[1.0], [0.0]], (linear.CLASSES, 1))
SEES_ALL = np.eye(linear.CLASSES, dtype=np.float32).repeat(2, axis=0)
PROFILES = {
    "quick": LatencyProfile(rows=(1, 16), seconds=(1e-4, 1e-3)),
    "good": LatencyProfile(rows=(1, 16), seconds=(2e-3, 2e-2)),
}


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each class has two signs; one of them is missing in three of ten rows, and `quick` sees no other."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, linear.CLASSES, count)
    x = random.normal(0, 0.5, (count, linear.WIDTH)).astype(np.float32)
    seen = random.random(count) >= 0.3
    x[np.arange(count), 2 * labels] += 6 * seen
    x[np.arange(count), 2 * labels + 1] += 6
    return x, labels


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the family, and data beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "profile_family", lambda *_, **__: PROFILES)
    files = {"quick": linear.content(weights=SEES_HALF), "good": linear.content(weights=SEES_ALL)}
    x, labels = rows(3000, seed=1)
    accuracies = {}
    for name, weights in (("quick", SEES_HALF), ("good", SEES_ALL)):
        accuracies[name] = round(float(((x @ weights).argmax(axis=1) == labels).mean()), 4)
    family = Family(
        name="signs",
        version="1",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, linear.WIDTH)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, linear.CLASSES)),),
        variants=tuple(
            Variant(
                name=name,
                file=f"{name}.onnx",
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                accuracy=accuracies[name],
            )
            for name, content in files.items()
        ),
    )
    publish(tmp_path / "models", family, {f"{name}.onnx": content for name, content in files.items()})
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    return tmp_path


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cascade", "models/signs/1", *arguments])


def told(*arguments: str) -> dict[str, Any]:
    done = command("--data", "data.npz", "--json", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_cascade_becomes_a_variant_of_the_next_version(home: Path) -> None:
    answer = told("--most", "1")
    (found,) = answer["cascades"]
    assert found["escalation"] == pytest.approx(0.3, abs=0.05)
    assert found["scores"] == "logits"
    artifact = open_family(home / "models" / "signs" / "2")
    assert Path(answer["folder"]) == artifact.folder
    assert [variant.name for variant in artifact.family.variants] == ["quick", "good", found["name"]]
    x, labels = rows(2000, seed=7)
    outputs = open_variants(artifact)[found["name"]].run({"x": x})
    accuracy = artifact.family.variants[2].accuracy
    assert (outputs["scores"].argmax(axis=1) == labels).mean() == pytest.approx(accuracy, abs=0.03)
    assert (outputs[ESCALATED] == WENT_ON).mean() == pytest.approx(found["escalation"], abs=0.05)


def test_versions_are_never_changed_and_nothing_is_written_on_trial(home: Path) -> None:
    assert told("--dry-run")["folder"] is None
    assert [path.name for path in (home / "models" / "signs").iterdir()] == ["1"]
    assert Path(told()["folder"]).name == "2"
    assert Path(told("--out", "elsewhere")["folder"]) == Path("elsewhere/signs/2")
    assert Path(told()["folder"]).name == "3"


def test_rows_to_measure_on_may_be_given_apart(home: Path) -> None:
    x, labels = rows(800, seed=3)
    np.savez(home / "test.npz", x=x, labels=labels)
    told("--test", "test.npz")
    evidence = open_family(home / "models" / "signs" / "2").family.variants[-1].evidence
    assert evidence is not None
    assert (evidence.samples, evidence.dataset) == (800, "test.npz")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data", "none.npz"], "there is no such file"),
        (["--data", "bare.npz"], "with an array 'labels'"),
        (["--data", "few.npz"], "expected at least 400 rows"),
        (["--data", "odd.npz"], "accurate by its manifest"),
        (["--data", "data.npz", "--output", "other"], "name one with --output"),
    ],
)
def test_what_cannot_be_done_is_said(home: Path, arguments: list[str], complaint: str) -> None:
    x, labels = rows(1000, seed=2)
    np.savez(home / "bare.npz", x=x)
    np.savez(home / "few.npz", x=x[:100], labels=labels[:100])
    np.savez(home / "odd.npz", x=x, labels=(labels + 1) % linear.CLASSES)
    done = command(*arguments)
    assert done.exit_code == 2
    assert complaint in " ".join(done.stderr.split())
    assert [path.name for path in (home / "models" / "signs").iterdir()] == ["1"]


def test_the_table_names_what_was_found(home: Path) -> None:
    done = command("--data", "data.npz", "--dry-run")
    assert done.exit_code == 0
    assert "quick-then-good-" in done.stdout
