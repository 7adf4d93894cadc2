import logging
from pathlib import Path

import pytest

from models.repository import RepositoryError, publish
from serving.catalog import demo_repository, open_catalog
from serving.config import ModelSettings
from tests.support import tiny_models


def put(root: Path, name: str, version: str = "1") -> Path:
    content = tiny_models.affine()
    family = tiny_models.family_of({"only": content}, name=name, version=version)
    return publish(root, family, {"only.onnx": content})


def keys(settings: ModelSettings) -> list[str]:
    return [artifact.key for artifact in open_catalog(settings)]


def test_the_demo_families_are_served_without_being_told() -> None:
    assert demo_repository().is_dir()
    assert [key.partition("/")[0] for key in keys(ModelSettings())] == ["fashion", "text"]
    assert set(keys(ModelSettings())) <= set(keys(ModelSettings(versions="all")))


def test_the_latest_versions_or_all(tmp_path: Path) -> None:
    for name, version in (("a", "9"), ("a", "10"), ("b", "1")):
        put(tmp_path, name, version)
    assert sorted(keys(ModelSettings(repository=tmp_path))) == ["a/10", "b/1"]
    assert keys(ModelSettings(repository=tmp_path, versions="all")) == ["a/9", "a/10", "b/1"]


def test_a_version_that_cannot_be_served_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "a")
    (put(tmp_path, "b") / "family.json").write_text("{}")
    with caplog.at_level(logging.ERROR, "gearshift.catalog"):
        assert keys(ModelSettings(repository=tmp_path)) == ["a/1"]
    assert "not served: b/1:" in caplog.text


def test_one_file_is_a_family(tmp_path: Path) -> None:
    file = tmp_path / "my model.onnx"
    file.write_bytes(tiny_models.affine())
    assert keys(ModelSettings(repository=file)) == ["my-model/1"]
    assert keys(ModelSettings(repository=file, name="mine")) == ["mine/1"]


def test_nothing_to_serve_says_why(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="nothing to serve: it holds no NAME/VERSION/family.json"):
        open_catalog(ModelSettings(repository=tmp_path))
    (put(tmp_path, "b") / "family.json").write_text("{}")
    with pytest.raises(RepositoryError, match="nothing to serve: .*family.json: name: "):
        open_catalog(ModelSettings(repository=tmp_path))
    with pytest.raises(RepositoryError, match="no such folder"):
        open_catalog(ModelSettings(repository=tmp_path / "none"))
