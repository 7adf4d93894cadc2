import logging
import os
import re
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from models.canary import CanaryError
from models.repository import Artifact, RepositoryError, publish
from serving import catalog as module
from serving.catalog import Catalog, Survey, demo_repository, open_catalog
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


class TestVersions:
    def test_as_many_as_are_asked_for(self, tmp_path: Path) -> None:
        for version in ("1", "2", "10"):
            put(tmp_path, "a", version)
        assert keys(ModelSettings(repository=tmp_path, versions="latest:2")) == ["a/2", "a/10"]
        assert keys(ModelSettings(repository=tmp_path, versions="1,10,77")) == ["a/1", "a/10"]

    def test_a_damaged_version_leaves_its_place_to_the_one_before(self, tmp_path: Path) -> None:
        put(tmp_path, "a", "1")
        (put(tmp_path, "a", "2") / "only.onnx").write_bytes(b"damaged")
        survey = Catalog(ModelSettings(repository=tmp_path)).survey()
        assert [artifact.key for artifact in survey.artifacts] == ["a/1"]
        assert "SHA-256 is" in survey.refused["a/2"]
        assert survey.present == {"a/1", "a/2"}

    def test_files_are_hashed_once_for_as_long_as_they_stay(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = put(tmp_path, "a")
        catalog = Catalog(ModelSettings(repository=tmp_path))
        verify = Artifact.verify
        hashed: list[str] = []
        monkeypatch.setattr(Artifact, "verify", lambda self: (hashed.append(self.key), verify(self))[1])
        for _ in range(3):
            assert catalog.survey().artifacts
        assert hashed == ["a/1"]
        (folder / "only.onnx").write_bytes(b"damaged")
        for _ in range(3):
            assert not catalog.survey().artifacts
        assert hashed == ["a/1", "a/1"]

    def test_what_is_served_stays_a_choice_whatever_became_of_its_files(self, tmp_path: Path) -> None:
        folder = put(tmp_path, "a")
        catalog = Catalog(ModelSettings(repository=tmp_path))
        held = {artifact.key: artifact for artifact in catalog.survey().artifacts}
        (folder / "only.onnx").write_bytes(b"damaged")
        survey = catalog.survey(None, held)
        assert survey.artifacts == tuple(held.values())
        assert "SHA-256 is" in survey.refused["a/1"]
        shutil.rmtree(folder)
        assert catalog.survey(None, held).artifacts == ()

    def test_a_version_that_did_not_load_is_tried_again_after_a_while(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path, "a")
        catalog = Catalog(ModelSettings(repository=tmp_path))
        (artifact,) = catalog.survey().artifacts
        catalog.refuse(artifact, "out of luck")
        assert catalog.survey().refused == {"a/1": "out of luck"}
        now_s = module.time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: now_s + module.DOUBT_S + 1)
        assert catalog.survey().artifacts == (artifact,)
        catalog.refuse(artifact, "out of luck")
        catalog.forget("a")
        assert catalog.survey().artifacts == (artifact,)


class TestTritonsLayout:
    def put(self, root: Path, version: str = "1", config: str | None = None, **files: str) -> Path:
        folder = root / "plain" / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(tiny_models.affine())
        if config is not None:
            (root / "plain" / "config.pbtxt").write_text(config)
        for name, text in files.items():
            (root / "plain" / f"{name}.txt").write_text(text)
        return folder

    def survey(self, root: Path) -> Survey:
        return Catalog(ModelSettings(repository=root)).survey()

    def test_one_file_without_a_manifest_is_a_family_of_one(self, tmp_path: Path) -> None:
        self.put(tmp_path)
        (artifact,) = self.survey(tmp_path).artifacts
        assert artifact.key == "plain/1"
        assert [spec.name for spec in artifact.family.inputs] == ["x", "tag"]
        (variant,) = artifact.family.variants
        assert artifact.load(variant).run({"x": np.array([[1, 2]], np.float32), "tag": np.array([[0.5]], np.float32)})[
            "y"
        ].tolist() == [[2.5, 4.5]]

    def test_its_configuration_is_minded(self, tmp_path: Path) -> None:
        config = """
        name: "plain" max_batch_size: 4 version_policy: { specific { versions: [1] } }
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
        """
        self.put(tmp_path, config=config, labels="cat\n\ndog\n")
        self.put(tmp_path, "2")
        (artifact,) = self.survey(tmp_path).artifacts
        assert artifact.key == "plain/1"
        assert artifact.family.max_batch_rows == 4
        assert {spec.name: spec.labels for spec in artifact.family.outputs} == {"y": ("cat", "dog"), "who": None}

    @pytest.mark.parametrize(
        ("config", "told"),
        [
            ('name: "other"', "says 'other', but the folder is 'plain'"),
            ('backend: "python"', "only ONNX models"),
            ("]", "config.pbtxt: 1:1"),
            ('output { name: "y" label_filename: "none.txt" }', "no label file 'none.txt'"),
            ('output { name: "y" label_filename: "../labels.txt" }', "no label file '../labels.txt'"),
            ('output { name: "y" label_filename: "labels.txt" }', "does not fit the output 'y'"),
            ('output { name: "z" label_filename: "labels.txt" }', "does not fit|the graph has no output 'z'"),
        ],
    )
    def test_a_configuration_that_cannot_be_minded_is_told(self, tmp_path: Path, config: str, told: str) -> None:
        self.put(tmp_path, config=config, labels="only one\n")
        survey = self.survey(tmp_path)
        assert survey.artifacts == ()
        assert re.search(told, survey.refused["plain/1"]), survey.refused

    def test_while_others_are_served_it_is_first_opened_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = self.put(tmp_path)

        def tried(files: list[Path]) -> None:
            assert files == [folder / "model.onnx"]
            raise CanaryError("it ended that process")

        monkeypatch.setattr(module, "try_files", tried)
        catalog = Catalog(ModelSettings(repository=tmp_path))
        catalog.careful = True
        assert catalog.survey().refused == {"plain/1": "it ended that process"}

    def test_a_patient_look_leaves_out_what_changed_a_moment_ago(self, tmp_path: Path) -> None:
        folder = self.put(tmp_path)
        catalog = Catalog(ModelSettings(repository=tmp_path))
        assert "may still be being written" in catalog.survey(patient=True).refused["plain/1"]
        for path in (folder / "model.onnx", folder):
            os.utime(path, (1.0, 1.0))
        assert len(catalog.survey(patient=True).artifacts) == 1


def test_an_object_store_is_a_repository(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    folder = put(tmp_path, "a")
    for path in folder.iterdir():
        store.pipe_file(f"/catalog/a/1/{path.name}", path.read_bytes())
    catalog = Catalog(ModelSettings(repository="memory://catalog", mirror_dir=tmp_path / "mirror"))
    (artifact,) = catalog.survey().artifacts
    assert artifact.folder.is_relative_to(tmp_path / "mirror")
    assert catalog.names() == ["a"]
    assert catalog.open("a", "1") == artifact
    store.rm("/catalog", recursive=True)


def test_under_explicit_control_a_server_starts_with_what_is_listed(tmp_path: Path) -> None:
    put(tmp_path, "a"), put(tmp_path, "b")
    for load, found in (((), []), (("b",), ["b/1"]), (("*",), ["a/1", "b/1"])):
        assert keys(ModelSettings(repository=tmp_path, control="explicit", load=load)) == found
