"""Mirrors of object stores; memory:// stands for one, and can be made to fail in the middle."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from models.manifest import ManifestError
from models.repository import open_family, publish
from models.source import LocalSource, RemoteSource, SourceError, open_source
from tests.support import tiny_models

FILES = {"a.onnx": tiny_models.affine(), "b.onnx": tiny_models.affine(3.0)}
URL = "memory://store/models"


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    files = fsspec.filesystem("memory")
    files.makedirs("/store/models", exist_ok=True)
    yield files
    files.rm("/store", recursive=True)


@pytest.fixture
def source(tmp_path: Path, store: MemoryFileSystem) -> RemoteSource:
    return RemoteSource(URL, tmp_path / "mirror")


def upload(store: MemoryFileSystem, scratch: Path, version: str = "1", name: str = "m") -> None:
    files = {"a": FILES["a.onnx"], "b": FILES["b.onnx"]}
    folder = publish(scratch, tiny_models.family_of(files, name=name, version=version), FILES)
    for path in folder.iterdir():
        store.pipe_file(f"/store/models/{name}/{version}/{path.name}", path.read_bytes())


def test_names_and_versions_are_those_that_could_be_some(source: RemoteSource, store: MemoryFileSystem) -> None:
    for path in ("b/1/x", "a/10/x", "a/9/x", "a/draft/x", ".hidden/1/x", "a/config.pbtxt", "readme"):
        store.pipe_file(f"/store/models/{path}", b"text")
    assert source.names() == ["a", "b"]
    assert sorted(source.versions("a")) == ["10", "9"]
    assert source.versions("none") == []
    assert source.versions("..") == []
    assert source.text("a", "config.pbtxt") == "text"
    assert source.text("b", "config.pbtxt") is None


def test_a_version_is_mirrored_once_and_whole(
    source: RemoteSource, store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, tmp_path / "scratch")
    folder = source.fetch("m", "1")
    open_family(folder).verify()
    assert sorted(path.name for path in folder.iterdir()) == ["a.onnx", "b.onnx", "family.json"]
    monkeypatch.setattr(source, "_download", None)  # would fail when called
    assert source.fetch("m", "1") == folder
    assert not list(folder.parent.glob(".part-*"))


def test_a_half_uploaded_version_is_refused_and_comes_later(
    source: RemoteSource, store: MemoryFileSystem, tmp_path: Path
) -> None:
    upload(store, tmp_path / "scratch")
    store.rm_file("/store/models/m/1/b.onnx")
    with pytest.raises(ManifestError, match=r"b\.onnx: named by the manifest, but not there"):
        source.fetch("m", "1")
    store.pipe_file("/store/models/m/1/b.onnx", FILES["b.onnx"][:30])
    with pytest.raises(ManifestError, match="has 30 bytes, should have"):
        source.fetch("m", "1")
    store.pipe_file("/store/models/m/1/b.onnx", FILES["b.onnx"])
    assert (source.fetch("m", "1") / "b.onnx").read_bytes() == FILES["b.onnx"]


def test_a_file_that_is_not_what_the_manifest_says_is_never_put_into_place(
    source: RemoteSource, store: MemoryFileSystem, tmp_path: Path
) -> None:
    upload(store, tmp_path / "scratch")
    wrong = bytes([FILES["b.onnx"][0] ^ 1]) + FILES["b.onnx"][1:]
    for content in (wrong, FILES["b.onnx"] + b"more"):
        store.pipe_file("/store/models/m/1/b.onnx", content)
        with pytest.raises(ManifestError, match="is not what the manifest says"):
            source.fetch("m", "1")
    assert not list((tmp_path / "mirror").rglob("m/1/*"))


def test_a_copy_that_was_cut_goes_on_where_it_ended(
    source: RemoteSource, store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, tmp_path / "scratch")
    real = store.open
    starts: list[int] = []

    class Cut:
        """Breaks after ten bytes, the first time it is read from a file."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def seek(self, where: int) -> None:
            starts.append(where)
            self._file.seek(where)

        def read(self, count: int) -> bytes:
            if len(starts) == 1:
                if self._file.tell() >= 10:
                    raise ConnectionResetError("the line is gone")
                return bytes(self._file.read(10))
            return bytes(self._file.read(count))

    def breaking(path: str, *rest: Any) -> Any:
        file = real(path, *rest)
        return Cut(file) if path.endswith("a.onnx") else file

    monkeypatch.setattr(source._files, "open", breaking)
    with pytest.raises(SourceError, match="ConnectionResetError: the line is gone"):
        source.fetch("m", "1")
    open_family(source.fetch("m", "1")).verify()
    assert starts == [0, 10]


def test_a_copy_that_takes_too_long_is_told_and_kept(store: MemoryFileSystem, tmp_path: Path) -> None:
    upload(store, tmp_path / "scratch")
    now = iter(range(0, 10_000, 100))
    slow = RemoteSource(URL, tmp_path / "mirror", timeout_s=50.0, clock=lambda: float(next(now)))
    with pytest.raises(ManifestError, match=r"not copied within 50 s, .* the next look goes on"):
        slow.fetch("m", "1")
    open_family(RemoteSource(URL, tmp_path / "mirror").fetch("m", "1")).verify()


def test_another_manifest_of_the_same_version_replaces_the_mirrored_one(
    source: RemoteSource, store: MemoryFileSystem, tmp_path: Path
) -> None:
    upload(store, tmp_path / "scratch")
    source.fetch("m", "1")
    family = tiny_models.family_of({"c": FILES["a.onnx"]}, name="m")
    store.pipe_file("/store/models/m/1/c.onnx", FILES["a.onnx"])
    store.pipe_file("/store/models/m/1/family.json", family.to_json().encode())
    assert [variant.name for variant in open_family(source.fetch("m", "1")).family.variants] == ["c"]


def test_a_manifest_that_is_none_says_where(source: RemoteSource, store: MemoryFileSystem) -> None:
    store.pipe_file("/store/models/m/1/family.json", b"{}")
    with pytest.raises(ManifestError, match=r"memory://store/models/m/1/family\.json: name: "):
        source.fetch("m", "1")


def test_a_version_made_for_triton_is_one_file(source: RemoteSource, store: MemoryFileSystem) -> None:
    with pytest.raises(ManifestError, match=r"neither family\.json nor model\.onnx"):
        source.fetch("m", "1")
    store.pipe_file("/store/models/m/1/model.onnx", FILES["a.onnx"])
    folder = source.fetch("m", "1")
    assert (folder / "model.onnx").read_bytes() == FILES["a.onnx"]
    store.rm_file("/store/models/m/1/model.onnx")
    store.pipe_file("/store/models/m/1/model.onnx", FILES["b.onnx"])
    assert (source.fetch("m", "1") / "model.onnx").read_bytes() == FILES["b.onnx"]


def test_one_mirror_serves_several_stores(store: MemoryFileSystem, tmp_path: Path) -> None:
    store.pipe_file("/store/models/m/1/model.onnx", FILES["a.onnx"])
    store.pipe_file("/store/others/m/1/model.onnx", FILES["b.onnx"])
    found = [RemoteSource(f"memory://store/{at}", tmp_path).fetch("m", "1") for at in ("models", "others")]
    digests = [hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() for folder in found]
    assert len(set(digests)) == 2


def test_a_store_that_is_away_is_told(tmp_path: Path, store: MemoryFileSystem) -> None:
    with pytest.raises(SourceError, match="memory://nowhere/models: there is nothing there"):
        RemoteSource("memory://nowhere/models", tmp_path).names()


def test_a_store_whose_client_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SourceError, match=r"s3://bucket/models: .*pip install gearshift\[cloud\]"):
        open_source("s3://bucket/models", tmp_path)
    with pytest.raises(SourceError, match="nosuch://"):
        open_source("nosuch://bucket", tmp_path)


def test_a_folder_of_this_host_is_used_where_it_lies(tmp_path: Path) -> None:
    folder = publish(tmp_path / "models", tiny_models.family_of({"a": FILES["a.onnx"]}), {"a.onnx": FILES["a.onnx"]})
    source = open_source(tmp_path / "models", tmp_path / "mirror")
    assert isinstance(source, LocalSource)
    assert (source.names(), source.versions("tiny"), source.versions("../models")) == (["tiny"], ["1"], [])
    assert source.fetch("tiny", "1") == folder
    assert not (tmp_path / "mirror").exists()
    with pytest.raises(SourceError, match="no such folder"):
        open_source(tmp_path / "none", tmp_path).names()
