import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import repository
from models.manifest import MANIFEST_NAME, Family, ManifestError, Variant
from models.repository import (
    Artifact,
    RepositoryError,
    bare_family,
    latest,
    open_family,
    open_repository,
    publish,
)
from tests.support import tiny_models

AFFINE = tiny_models.affine()
FILES = {"a.onnx": AFFINE, "b.onnx": tiny_models.affine(3.0)}


def family(name: str = "m", version: str = "1") -> Family:
    return tiny_models.family_of({"a": FILES["a.onnx"], "b": FILES["b.onnx"]}, name=name, version=version)


def put(root: Path, name: str = "m", version: str = "1") -> Path:
    return publish(root, family(name, version), FILES)


def test_what_is_published_is_found_and_loads(tmp_path: Path) -> None:
    folder = put(tmp_path)
    listing = open_repository(tmp_path)
    assert listing.artifacts == (Artifact(family(), folder),)
    assert not listing.refused
    (artifact,) = listing.artifacts
    assert artifact.key == "m/1"
    session = artifact.load(artifact.family.variant("b"))
    inputs = {"x": np.ones((1, 2), np.float32), "tag": np.zeros((1, 1), np.float32)}
    np.testing.assert_array_equal(session.run(inputs)["y"], [[3, 3]])


def test_families_stand_by_name_and_rising_version(tmp_path: Path) -> None:
    for name, version in (("b", "10"), ("a", "1"), ("b", "9")):
        put(tmp_path, name, version)
    listing = open_repository(tmp_path)
    assert [artifact.key for artifact in listing.artifacts] == ["a/1", "b/9", "b/10"]
    assert {name: artifact.key for name, artifact in latest(listing.artifacts).items()} == {"a": "a/1", "b": "b/10"}


def test_what_is_no_version_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / ".git").mkdir()
    (tmp_path / "m" / "notes").mkdir()
    (tmp_path / "m" / ".staging-1-abc").mkdir()
    (tmp_path / "m" / "7").write_text("a file")
    listing = open_repository(tmp_path)
    assert [artifact.key for artifact in listing.artifacts] == ["m/1"]
    assert not listing.refused


def test_a_broken_version_is_told_and_the_others_are_served(tmp_path: Path) -> None:
    put(tmp_path, version="1")
    (put(tmp_path, version="2") / MANIFEST_NAME).write_text("{}")
    (put(tmp_path, version="3") / "a.onnx").unlink()
    (tmp_path / "m" / "4").mkdir()
    put(tmp_path, version="5").rename(tmp_path / "m" / "6")
    listing = open_repository(tmp_path)
    assert [artifact.key for artifact in listing.artifacts] == ["m/1"]
    reasons = dict(listing.refused)
    assert list(reasons) == ["m/2", "m/3", "m/4", "m/6"]
    assert "name: " in reasons["m/2"]
    assert reasons["m/3"].endswith("files named by the manifest are missing: a.onnx")
    assert "cannot be read" in reasons["m/4"]
    assert reasons["m/6"].endswith("says m/5, but the folder is m/6")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder"):
        open_repository(tmp_path / "none")


def test_changed_bytes_are_not_loaded(tmp_path: Path) -> None:
    folder = put(tmp_path)
    artifact = open_family(folder)
    (folder / "a.onnx").write_bytes(FILES["b.onnx"])
    with pytest.raises(ManifestError, match=r"SHA-256 is [0-9a-f]{12}\.\.\., the manifest says [0-9a-f]{12}\.\.\."):
        artifact.load(artifact.family.variant("a"))
    (folder / "a.onnx").unlink()
    with pytest.raises(ManifestError, match="cannot be read: No such file or directory"):
        artifact.load(artifact.family.variant("a"))


def test_a_link_to_other_bytes_is_not_loaded(tmp_path: Path) -> None:
    folder = put(tmp_path)
    artifact = open_family(folder)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "a.onnx").unlink()
    (folder / "a.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(ManifestError, match="SHA-256"):
        artifact.load(artifact.family.variant("a"))


def test_what_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    content = b"not a model"
    told = family().model_copy(
        update={"variants": (bare_variant(content),)},
    )
    artifact = open_family(publish(tmp_path, told, {"a.onnx": content}))
    with pytest.raises(ManifestError, match=r"a\.onnx: ONNX Runtime .* cannot load it"):
        artifact.load(artifact.family.variants[0])


def bare_variant(content: bytes) -> Variant:
    return (
        family()
        .variants[0]
        .model_copy(update={"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)})
    )


def promised(root: Path, **changes: object) -> Artifact:
    return open_family(publish(root, family().model_copy(update=changes), FILES))


def test_a_graph_that_is_not_what_was_promised(tmp_path: Path) -> None:
    x, tag = family().inputs
    y, who = family().outputs
    cases: list[tuple[dict[str, object], str]] = [
        ({"inputs": (x.model_copy(update={"name": "z"}), tag)}, r"input 'z' is not in the graph, which has: x, tag"),
        (
            {"inputs": (x.model_copy(update={"datatype": "FP64"}), tag)},
            r"input 'x' is FP32 \[-1, 2\] in the graph, but FP64 \[-1, 2\] in the manifest",
        ),
        ({"inputs": (x.model_copy(update={"shape": (-1, 3)}), tag)}, r"but FP32 \[-1, 3\] in the manifest"),
        ({"inputs": (x.model_copy(update={"shape": (-1, 2, 1)}), tag)}, r"but FP32 \[-1, 2, 1\] in the manifest"),
        ({"inputs": (x,)}, r"inputs in the graph that the manifest does not name: \{'tag'\}"),
        ({"outputs": (y.model_copy(update={"name": "z"}), who)}, r"output 'z' is not in the graph"),
    ]
    for number, (changes, text) in enumerate(cases):
        artifact = promised(tmp_path / str(number), **changes)
        with pytest.raises(ManifestError, match=text):
            artifact.load(artifact.family.variants[0])


def test_a_manifest_may_promise_less_than_the_graph_gives(tmp_path: Path) -> None:
    x, tag = family().inputs
    fixed = (x.model_copy(update={"shape": (4, 2)}), tag)
    artifact = promised(tmp_path, inputs=fixed, outputs=family().outputs[:1])
    artifact.load(artifact.family.variants[0])


def test_a_version_never_changes(tmp_path: Path) -> None:
    folder = put(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RepositoryError, match="a version never changes"):
        put(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_publishing_that_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Of three files written (two models, the manifest) the disk takes fewer."""
    turns = iter(range(1, 10))
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if next(turns) == moment:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(repository.os, "fsync", full)
    with pytest.raises(RepositoryError, match="cannot be written: No space left on device"):
        put(tmp_path)
    assert not list((tmp_path / "m").iterdir())
    monkeypatch.undo()
    assert open_family(put(tmp_path)).key == "m/1"


def test_of_two_that_publish_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        put(tmp_path)  # the other, just before us
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(RepositoryError):
        put(tmp_path)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def bare(folder: Path, name: str = "net.onnx", content: bytes = AFFINE, **rest: Any) -> Artifact:
    path = folder / name
    path.write_bytes(content)
    return bare_family(path, **rest)


def test_a_bare_file_is_a_family_of_one(tmp_path: Path) -> None:
    artifact = bare(tmp_path)
    assert artifact.key == "net/1"
    assert [spec.name for spec in artifact.family.inputs] == ["x", "tag"]
    assert artifact.family.batchable
    (variant,) = artifact.family.variants
    assert (variant.name, variant.file, variant.accuracy) == ("original", "net.onnx", None)
    artifact.load(variant)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_bare_file_gets_what_is_said_of_it(tmp_path: Path) -> None:
    artifact = bare(tmp_path, name="my net (2).onnx", accuracy=0.5, version="7", labels=("cat", "dog"))
    assert artifact.key == "my-net-2/7"
    assert artifact.family.variants[0].accuracy == 0.5
    assert artifact.family.outputs[0].labels == ("cat", "dog")
    assert bare_family(tmp_path / "my net (2).onnx", name="mine").key == "mine/1"


def test_a_bare_file_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="cannot be read"):
        bare_family(tmp_path / "none.onnx")
    with pytest.raises(RepositoryError, match="cannot load it"):
        bare(tmp_path, content=b"nonsense")
    with pytest.raises(RepositoryError, match="cannot name a model"):
        bare(tmp_path, name="---.onnx")
    with pytest.raises(RepositoryError, match="cannot name a model"):
        bare_family(bare(tmp_path).folder / "net.onnx", name="../up")
    with pytest.raises(RepositoryError, match=r"3 labels fit no output; the outputs are y \[-1, 2\], who \[-1, 1\]"):
        bare(tmp_path, labels=("a", "b", "c"))


def test_a_bare_file_with_an_impossible_accuracy(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="accuracy"):
        bare(tmp_path, accuracy=7.0)


def test_a_bare_file_with_an_odd_name_can_be_read(tmp_path: Path) -> None:
    artifact = bare(tmp_path, name="my net (2).onnx")
    assert artifact.load(artifact.family.variants[0])
