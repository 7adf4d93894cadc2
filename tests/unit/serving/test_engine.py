from pathlib import Path

import numpy as np
import pytest

from models.calibrate import QUIET_DUTY
from models.canary import CanaryError
from models.repository import Artifact, open_family, publish
from serving import engine as module
from serving.config import Settings, load_settings
from serving.engine import local_engine
from tests.support import tiny_models

INPUTS = {"x": np.ones((1, 2), np.float32), "tag": np.zeros((1, 1), np.float32)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(environ={}, overrides={"models": {"cache_dir": tmp_path / "profiles"}})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    files = {"double": tiny_models.affine(), "triple": tiny_models.affine(3.0)}
    family = tiny_models.family_of(files, max_batch_rows=4)
    return open_family(publish(tmp_path, family, {f"{name}.onnx": content for name, content in files.items()}))


def quiet(_: str) -> None:
    return


async def test_a_model_comes_runs_and_goes(settings: Settings, artifact: Artifact) -> None:
    engine = await local_engine(settings, quiet)
    profiles = await engine.load(artifact, quiet, beside_traffic=False)
    assert profiles.keys() == {"double", "triple"}
    for variant, factor in (("double", 2), ("triple", 3)):
        execution = await engine.backend.run(artifact.key, variant, INPUTS, 1.0)
        assert execution.outputs["y"].tolist() == [[factor, factor]]
    await engine.drop(artifact.key)
    assert not engine.backend.holds(artifact.key)  # type: ignore[attr-defined]  # a LocalPool
    await engine.backend.close()


async def test_beside_traffic_an_unknown_model_is_tried_elsewhere_and_measured_gently(
    settings: Settings, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    real = module.profile_family

    def measured(*args: object, duty: float, **rest: object) -> object:
        told.append(duty)
        return real(*args, duty=1.0, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "profile_family", measured)
    monkeypatch.setattr(module, "try_out", lambda tried: told.append(tried.key))
    engine = await local_engine(settings, quiet)
    await engine.load(artifact, quiet, beside_traffic=True)
    assert told == [artifact.key, QUIET_DUTY]
    await engine.load(artifact, quiet, beside_traffic=True)
    assert told == [artifact.key, QUIET_DUTY, QUIET_DUTY], "what has run on this host needs no trial"
    await engine.backend.close()


@pytest.mark.parametrize(("control", "tried"), [("none", False), ("poll", True), ("explicit", True)])
async def test_a_start_tries_unknown_models_where_they_come_by_themselves(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, control: str, tried: bool
) -> None:
    """A model that crashes would else be met again at each restart, in the server itself."""
    told: list[str] = []
    monkeypatch.setattr(module, "try_out", lambda found: told.append(found.key))
    models = {"cache_dir": tmp_path / "profiles", "control": control}
    engine = await local_engine(load_settings(environ={}, overrides={"models": models}), quiet)
    await engine.load(artifact, quiet, beside_traffic=False)
    assert bool(told) is tried
    await engine.backend.close()


async def test_a_model_that_fails_its_trial_is_not_loaded(
    settings: Settings, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Artifact) -> None:
        raise CanaryError("it ended that process")

    monkeypatch.setattr(module, "try_out", fails)
    engine = await local_engine(settings, quiet)
    with pytest.raises(CanaryError):
        await engine.load(artifact, quiet, beside_traffic=True)
    assert not engine.backend.holds(artifact.key)  # type: ignore[attr-defined]  # a LocalPool
    await engine.backend.close()
