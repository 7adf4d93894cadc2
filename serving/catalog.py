"""Which families a server serves: what the repository holds, less what is broken, as the version policy chooses."""

import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from threading import Lock

from models.canary import CanaryError, try_files
from models.manifest import MANIFEST_NAME, ManifestError, TensorSpec
from models.repository import (
    MODEL_SUFFIX,
    PLAIN_MODEL,
    Artifact,
    RepositoryError,
    bare_family,
    open_family,
)
from models.source import LocalSource, Source, open_source
from models.triton_config import CONFIG_NAME, TritonConfig, TritonConfigError, read_triton_config
from models.versions import VersionPolicy, read_policy
from serving.config import ModelSettings

SETTLE_S = 2.0
"""A version without a manifest counts as still being written for so long after its last change: no hash can tell."""
DOUBT_S = 300.0
"""A version that could not be loaded may have been unlucky: it is tried again after so long."""
EVERY = "*"
"""Stands for all models in the list of those to load."""

log = logging.getLogger("gearshift.catalog")

_Signature = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """What can be served of some models now."""

    artifacts: tuple[Artifact, ...]
    """Whole and verified, chosen by the version policy; by name and rising version."""
    refused: Mapping[str, str]
    """Reason by "name/version", of versions that would have been chosen."""
    present: frozenset[str]
    """Keys of all versions there are, looked into or not."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a version's files were found to be, for as long as they do not change."""

    signature: _Signature
    found: Artifact | str
    """The artifact, or why it cannot be served."""
    doubt_at_s: float = inf
    """When to look again although nothing has changed, on the monotonic clock."""


def demo_repository() -> Path:
    """The families that ship with the project."""
    import models.zoo

    return Path(models.zoo.__file__).parent / "families"


class Catalog:
    """A repository as one server sees it. Its methods read files, so they belong into a thread; one runs at a time."""

    def __init__(self, settings: ModelSettings, *, source: Source | None = None) -> None:
        """Raises `RepositoryError` when the repository is of a kind that cannot be read here."""
        place = settings.repository or demo_repository()
        self.place = str(place)
        self.careful = settings.control != "none"
        """Whether models without a manifest are first opened in a process of their own: nobody watches this one, or
        others are being served by it."""
        self._bare = place if isinstance(place, Path) and place.suffix == MODEL_SUFFIX and not place.is_dir() else None
        self._name = settings.name
        self._policy = read_policy(settings.versions)
        self._source = source or (LocalSource(Path()) if self._bare else open_source(place, settings.mirror_dir))
        self._known: dict[str, _Known] = {}
        self._one_at_a_time = Lock()

    @property
    def is_local(self) -> bool:
        """Whether the names are quickly told."""
        return self._bare is not None or isinstance(self._source, LocalSource)

    def names(self) -> list[str]:
        """The models there are, servable or not. Raises `RepositoryError`."""
        if self._bare is not None:
            return [self._open_bare(self._bare).family.name]
        return self._source.names()

    def survey(
        self,
        names: Collection[str] | None = None,
        held: Mapping[str, Artifact] | None = None,
        *,
        patient: bool = False,
    ) -> Survey:
        """What can be served of these models, or of all. Raises `RepositoryError` when the repository cannot be read.

        `held`: what is served already, by key. It was whole when it was loaded, and so stays a choice for as long as
        its folder exists, whatever became of the files. `patient`: leave out what may still be being written.
        """
        with self._one_at_a_time:
            if self._bare is not None:
                artifact = self._open_bare(self._bare)
                wanted = names is None or artifact.family.name in names
                return Survey((artifact,) if wanted else (), {}, frozenset({artifact.key}))
            artifacts: list[Artifact] = []
            refused: dict[str, str] = {}
            present: set[str] = set()
            for name in self._source.names() if names is None else sorted(names):
                versions = self._source.versions(name)
                present |= {f"{name}/{version}" for version in versions}
                chosen, broken = self._survey_model(name, versions, held or {}, patient=patient)
                artifacts += chosen
                refused |= broken
            return Survey(tuple(artifacts), refused, frozenset(present))

    def open(self, name: str, version: str) -> Artifact:
        """One version, verified. Raises `ManifestError` or `RepositoryError`."""
        with self._one_at_a_time:
            if self._bare is not None:
                return self._open_bare(self._bare)
            config, _ = self._config(name)
            return self._open(name, version, config, patient=False)

    def refuse(self, artifact: Artifact, reason: str) -> None:
        """Do not choose this version for a while, as long as its files stay as they are."""
        key = artifact.key if self._bare is None else ""
        known = self._known.get(key)
        if known is not None:
            self._known[key] = _Known(known.signature, reason, time.monotonic() + DOUBT_S)

    def forget(self, name: str) -> None:
        """Look at a model's versions with fresh eyes."""
        for key in [key for key in self._known if key.partition("/")[0] == name]:
            del self._known[key]

    def _survey_model(
        self, name: str, versions: Sequence[str], held: Mapping[str, Artifact], *, patient: bool
    ) -> tuple[list[Artifact], dict[str, str]]:
        refused: dict[str, str] = {}
        try:
            config, policy = self._config(name)
        except TritonConfigError as error:
            return [], {f"{name}/{version}": str(error) for version in versions}
        chosen: list[Artifact] = []
        for version in policy.candidates(versions):
            if policy.enough(chosen):
                break
            key = f"{name}/{version}"
            try:
                artifact = self._open(name, version, config, patient=patient)
            except ManifestError as error:
                refused[key] = str(error)
                if key in held:
                    chosen.append(held[key])
                continue
            if key in held and held[key].digest != artifact.digest:
                refused[key] = (
                    "its files have changed since it was loaded, and a version never changes: publish another version, "
                    "or unload the model first"
                )
                artifact = held[key]
            chosen.append(artifact)
        return sorted(chosen, key=lambda artifact: int(artifact.family.version)), refused

    def _config(self, name: str) -> tuple[TritonConfig | None, VersionPolicy]:
        text = self._source.text(name, CONFIG_NAME)
        if text is None:
            return None, self._policy
        config = read_triton_config(text)
        if config.name not in ("", name):
            raise TritonConfigError(f"{CONFIG_NAME}: says '{config.name}', but the folder is '{name}'")
        return config, config.policy or self._policy

    def _open(self, name: str, version: str, config: TritonConfig | None, *, patient: bool) -> Artifact:
        """Raises `ManifestError`, the same one for as long as the files do not change."""
        folder = self._source.fetch(name, version)
        key = f"{name}/{version}"
        signature = (config, *_signature(folder))
        known = self._known.get(key)
        if known is None or known.signature != signature or time.monotonic() > known.doubt_at_s:
            plain = not (folder / MANIFEST_NAME).exists() and (folder / PLAIN_MODEL).exists()
            if plain and patient and _age_s(folder) < SETTLE_S:
                raise ManifestError(f"{folder}: changed a moment ago: it may still be being written")
            found: Artifact | str
            try:
                found = self._open_plain(folder, name, version, config) if plain else open_family(folder)
                found.verify()
            except (ManifestError, CanaryError) as error:
                found = str(error)
            known = self._known[key] = _Known(signature, found)
        if isinstance(known.found, str):
            raise ManifestError(known.found)
        return known.found

    def _open_plain(self, folder: Path, name: str, version: str, config: TritonConfig | None) -> Artifact:
        """A version made for Triton, as a family of one. Raises `ManifestError` or `CanaryError`."""
        file = folder / PLAIN_MODEL
        if self.careful:
            try_files([file])
        try:
            artifact = bare_family(file, name=name, version=version)
        except RepositoryError as error:
            raise ManifestError(str(error)) from error
        if config is None:
            return artifact
        family = artifact.family
        changes: dict[str, object] = {"outputs": self._labelled(name, family.outputs, config)}
        if config.max_batch_size:
            changes["max_batch_rows"] = config.max_batch_size
        return Artifact(family.model_copy(update=changes), folder, file)

    def _labelled(self, name: str, outputs: tuple[TensorSpec, ...], config: TritonConfig) -> tuple[TensorSpec, ...]:
        files = dict(config.label_files)
        labelled = []
        for spec in outputs:
            file = files.pop(spec.name, None)
            if file is None:
                labelled.append(spec)
                continue
            text = self._source.text(name, file) if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", file) else None
            if text is None:
                raise ManifestError(f"{name}/{CONFIG_NAME}: there is no label file '{file}' beside it")
            labels = tuple(line.strip() for line in text.splitlines() if line.strip())
            try:
                labelled.append(TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape, labels=labels))
            except ValueError as error:
                raise ManifestError(f"{name}/{file}: does not fit the output '{spec.name}': {error}") from error
        if files:
            raise ManifestError(f"{name}/{CONFIG_NAME}: the graph has no output {', '.join(map(repr, files))}")
        return tuple(labelled)

    def _open_bare(self, file: Path) -> Artifact:
        known = self._known.get("")
        if known is None:
            known = self._known[""] = _Known((), bare_family(file, name=self._name))
        if isinstance(known.found, str):
            raise RepositoryError(known.found)
        return known.found


def names_at_start(settings: ModelSettings) -> Collection[str] | None:
    """The models a server begins with; None: all."""
    if settings.control != "explicit" or EVERY in settings.load:
        return None
    return settings.load


def open_catalog(settings: ModelSettings) -> tuple[Artifact, ...]:
    """What a server starts with. A version that cannot be served is told and left out.

    Raises `RepositoryError` when nothing is left of what never changes.
    """
    catalog = Catalog(settings)
    survey = catalog.survey(names_at_start(settings))
    for key, reason in survey.refused.items():
        log.error("not served: %s: %s", key, reason)
    require_any(catalog, settings, survey)
    return survey.artifacts


def require_any(catalog: Catalog, settings: ModelSettings, survey: Survey) -> None:
    """Raise `RepositoryError` when there is nothing to serve, and nothing could come."""
    if settings.control == "none" and not survey.artifacts:
        reasons = "; ".join(survey.refused.values()) or f"it holds no NAME/VERSION/{MANIFEST_NAME}"
        raise RepositoryError(f"{catalog.place}: nothing to serve: {reasons}")


def _signature(folder: Path) -> _Signature:
    """Changes when a file in the folder does."""
    try:
        return tuple(
            (path.name, info.st_size, info.st_mtime_ns, info.st_ino)
            for path in sorted(folder.iterdir())
            if (info := path.stat())
        )
    except OSError:
        return ()


def _age_s(folder: Path) -> float:
    """Since the last change in the folder, by the wall clock that also dates files."""
    try:
        newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return 0.0
    return time.time() - newest
