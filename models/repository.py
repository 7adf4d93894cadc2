"""A folder of families: NAME/VERSION/family.json and its ONNX files beside it.

Nothing is trusted before its hash is: the bytes that were hashed are the bytes that are loaded. Publishing
is one rename, so a reader sees a whole version or none.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.drafts import clear_abandoned, folder_in_making
from models.manifest import (
    MANIFEST_NAME,
    NAME_PATTERN,
    Family,
    ManifestError,
    TensorSpec,
    Variant,
    describe,
    read_manifest,
    sha256_of,
)
from models.session import ModelLoadError, Session

MODEL_SUFFIX = ".onnx"
STAGING = ".staging-"
"""How the folder of a version that is being written begins."""
PLAIN_MODEL = "model.onnx"
"""The one file of a version that was made for Triton: no manifest, the graph says the rest."""


class RepositoryError(ValueError):
    """The repository, or a change to it, is not possible as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A family and where its files lie."""

    family: Family
    folder: Path
    file: Path | None = None
    """The one file of a bare model, whatever it is called."""

    @property
    def key(self) -> str:
        """What the model is called inside one gateway: "name/version"."""
        return f"{self.family.name}/{self.family.version}"

    @property
    def digest(self) -> str:
        """Names the content: equal when manifest and files are."""
        return _sha256(self.family.to_json().encode())

    def verify(self) -> None:
        """Every file is what the manifest says. Raises `ManifestError`."""
        for variant in self.family.variants:
            if variant.file:
                path = self.path_of(variant)
                try:
                    _require_digest(path, sha256_of(path), variant)
                except OSError as error:
                    raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error

    def path_of(self, variant: Variant) -> Path:
        """Where a variant's ONNX file lies."""
        return self.file or self.folder / variant.file

    def read(self, variant: Variant) -> bytes:
        """A variant's ONNX bytes, verified against the manifest. Raises `ManifestError`."""
        path = self.path_of(variant)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
        _require_digest(path, _sha256(content), variant)
        return content

    def load(self, variant: Variant) -> Session:
        """A session of a variant whose bytes and whose graph are what the manifest says. Raises `ManifestError`."""
        try:
            session = Session(self.read(variant))
        except ModelLoadError as error:
            raise ManifestError(f"{self.folder / variant.file}: {error}") from error
        for kind, promised, found in (
            ("input", self.family.inputs, session.inputs),
            ("output", self.family.outputs, session.outputs),
        ):
            require_agreement(f"{self.folder / variant.file}: {kind}", promised, found)
        return session


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds: what can be served, and why the rest cannot."""

    artifacts: tuple[Artifact, ...]
    refused: tuple[tuple[str, str], ...]
    """("name/version", reason) of each version that cannot be served."""


def open_repository(root: Path) -> Listing:
    """All families of a folder, by name and rising version. A broken version is refused, not fatal.

    Raises `RepositoryError` when the folder itself cannot be used.
    """
    if not root.is_dir():
        raise RepositoryError(f"{root}: no such folder; a model repository is a folder NAME/VERSION/{MANIFEST_NAME}")
    artifacts: list[Artifact] = []
    refused: list[tuple[str, str]] = []
    for name_dir in sorted(path for path in root.iterdir() if path.is_dir() and re.fullmatch(NAME_PATTERN, path.name)):
        versions = [path for path in name_dir.iterdir() if path.is_dir() and re.fullmatch(r"[0-9]{1,9}", path.name)]
        for folder in sorted(versions, key=lambda path: int(path.name)):
            try:
                artifacts.append(open_family(folder))
            except ManifestError as error:
                refused.append((f"{name_dir.name}/{folder.name}", str(error)))
    return Listing(tuple(artifacts), tuple(refused))


def open_family(folder: Path) -> Artifact:
    """The family of one version folder. Raises `ManifestError`."""
    family = read_manifest(folder / MANIFEST_NAME)
    if (folder.parent.name, folder.name) != (family.name, family.version):
        raise ManifestError(
            f"{folder / MANIFEST_NAME}: says {family.name}/{family.version}, "
            f"but the folder is {folder.parent.name}/{folder.name}"
        )
    missing = [v.file for v in family.variants if v.file and not (folder / v.file).is_file()]
    if missing:
        raise ManifestError(f"{folder}: files named by the manifest are missing: {', '.join(missing)}")
    return Artifact(family, folder)


def latest(artifacts: tuple[Artifact, ...]) -> dict[str, Artifact]:
    """The highest version of each family, by name."""
    newest: dict[str, Artifact] = {}
    for artifact in sorted(artifacts, key=lambda a: int(a.family.version)):
        newest[artifact.family.name] = artifact
    return newest


def bare_family(
    path: Path,
    *,
    name: str | None = None,
    version: str = "1",
    accuracy: float | None = None,
    labels: tuple[str, ...] | None = None,
) -> Artifact:
    """A family of one: the ONNX file as it is, its inputs and outputs read from the graph.

    Nothing is written. Raises `RepositoryError` when the file cannot be served, saying why.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        session = Session(content)
    except ModelLoadError as error:
        raise RepositoryError(f"{path}: {error}") from error
    family_name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64]
    if not re.fullmatch(NAME_PATTERN, family_name):
        raise RepositoryError(f"'{family_name}' cannot name a model: use letters, digits, '.', '_' and '-' (--name)")
    try:
        variant = Variant(
            name="original",
            file=path.name if re.fullmatch(NAME_PATTERN, path.name) else "model.onnx",
            sha256=_sha256(content),
            size_bytes=len(content),
            accuracy=accuracy,
        )
        family = Family(
            name=family_name,
            version=version,
            description=f"served as it is from {path.name}",
            inputs=session.inputs,
            outputs=_with_labels(session.outputs, labels),
            variants=(variant,),
        )
    except ValidationError as error:
        raise RepositoryError(f"{path}: {describe(error)}") from error
    return Artifact(family, path.parent, path)


def publish(root: Path, family: Family, files: dict[str, bytes]) -> Path:
    """Write a new version into a repository: whole, or not at all. Returns its folder.

    What a publisher that was killed left of the family is cleared away first. Raises `RepositoryError` when the
    version exists: a version never changes.
    """
    target = root / family.name / family.version
    if target.exists():
        raise RepositoryError(f"{target} exists; a version never changes: choose another --version")
    clear_abandoned(target.parent, f"{STAGING}*")
    try:
        with folder_in_making(target.parent, STAGING) as staging:
            for name, content in files.items():
                _write(staging / name, content)
            _write(staging / MANIFEST_NAME, family.to_json().encode())
            staging.rename(target)
    except OSError as error:
        raise RepositoryError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def require_agreement(where: str, promised: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]) -> None:
    """The graph takes and gives what the manifest promises; it may be freer in its dimensions, not stricter.

    `where` names the file and ends in "input" or "output". Raises `ManifestError`.
    """
    graph = {spec.name: spec for spec in found}
    for spec in promised:
        other = graph.get(spec.name)
        if other is None:
            raise ManifestError(f"{where} '{spec.name}' is not in the graph, which has: {', '.join(graph)}")
        fits = len(other.shape) == len(spec.shape) and all(
            theirs in (-1, ours) for theirs, ours in zip(other.shape, spec.shape, strict=True)
        )
        if other.datatype != spec.datatype or not fits:
            raise ManifestError(
                f"{where} '{spec.name}' is {other.datatype} {list(other.shape)} in the graph, "
                f"but {spec.datatype} {list(spec.shape)} in the manifest"
            )
    if where.endswith("input") and len(graph) > len(promised):
        raise ManifestError(
            f"{where}s in the graph that the manifest does not name: {set(graph) - {s.name for s in promised}}"
        )


def _require_digest(path: Path, digest: str, variant: Variant) -> None:
    if digest != variant.sha256:
        raise ManifestError(
            f"{path}: SHA-256 is {digest[:12]}..., the manifest says {variant.sha256[:12]}...: "
            "the file is damaged or was changed after the manifest was written"
        )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _with_labels(outputs: tuple[TensorSpec, ...], labels: tuple[str, ...] | None) -> tuple[TensorSpec, ...]:
    """The labels belong to the first output whose last dimension fits them."""
    if labels is None:
        return outputs
    for index, spec in enumerate(outputs):
        if spec.shape and spec.shape[-1] == len(labels):
            named = TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape, labels=labels)
            return (*outputs[:index], named, *outputs[index + 1 :])
    shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
    raise RepositoryError(f"{len(labels)} labels fit no output; the outputs are {shapes}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
