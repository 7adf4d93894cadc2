"""Where a repository's files come from: a local folder, or an object store that is mirrored version by version.

What is asked of a source is always a local folder that does not change. A remote version comes into a folder beside
its place, each file checked against the hash its manifest promises, and moves there in one rename when it is whole.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec
from filelock import FileLock, Timeout
from pydantic import ValidationError

from models.manifest import MANIFEST_NAME, NAME_PATTERN, Family, ManifestError, describe, sha256_of
from models.place import is_url
from models.repository import PLAIN_MODEL, RepositoryError

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_LABEL_BYTES = 16 * 1024 * 1024
MAX_PLAIN_BYTES = 8 << 30
FETCH_TIMEOUT_S = 600.0
"""For one version. What is there by then is kept, and the next look goes on from it."""
CHUNK_BYTES = 4 * 1024 * 1024
CLOUD_EXTRA = "install it with: pip install gearshift[cloud]"

log = logging.getLogger("gearshift.source")

Clock = Callable[[], float]


class SourceError(RepositoryError):
    """The repository cannot be reached or used; the message says what to do."""


class Source(Protocol):
    """A repository NAME/VERSION/... to read from."""

    def names(self) -> list[str]:
        """The models there are, sorted. Raises `SourceError`."""
        ...

    def versions(self, name: str) -> list[str]:
        """The versions of a model, in no order; none where there is no such model. Raises `SourceError`."""
        ...

    def text(self, name: str, file: str) -> str | None:
        """A small text file beside a model's versions; None where there is none. Raises `SourceError`."""
        ...

    def fetch(self, name: str, version: str) -> Path:
        """A local folder with the version's files. Raises `ManifestError` when it is not whole, or `SourceError`."""
        ...


def open_source(place: Path | str, mirror: Path) -> Source:
    """The source at a path or URL; remote files are kept below `mirror`. Raises `SourceError`."""
    if isinstance(place, str) and is_url(place):
        return RemoteSource(place, mirror)
    return LocalSource(Path(place))


class LocalSource:
    """A folder of this host: what lies there is used where it lies."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """See `Source.names`."""
        if not self.root.is_dir():
            raise SourceError(
                f"{self.root}: no such folder; a model repository is a folder NAME/VERSION/{MANIFEST_NAME}"
            )
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and is_name(path.name))

    def versions(self, name: str) -> list[str]:
        """See `Source.versions`."""
        folder = self.root / name
        if not is_name(name) or not folder.is_dir():
            return []
        return [path.name for path in folder.iterdir() if path.is_dir() and is_version(path.name)]

    def text(self, name: str, file: str) -> str | None:
        """See `Source.text`."""
        try:
            return (self.root / name / file).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{self.root / name / file}: cannot be read: {error}") from error

    def fetch(self, name: str, version: str) -> Path:
        """See `Source.fetch`."""
        return self.root / name / version


class RemoteSource:
    """A repository behind any fsspec file system, mirrored on demand. Several processes may share one mirror."""

    def __init__(
        self, url: str, mirror: Path, *, timeout_s: float = FETCH_TIMEOUT_S, clock: Clock = time.monotonic
    ) -> None:
        """`mirror` may serve several URLs. Raises `SourceError` for a file system that is not installed."""
        self.url = url.rstrip("/")
        self._folder = mirror / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._timeout_s = timeout_s
        self._clock = clock
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise SourceError(f"{self.url}: the package for this kind of store is missing; {CLOUD_EXTRA}") from error
        except ValueError as error:
            raise SourceError(f"{self.url}: {error}") from error

    def names(self) -> list[str]:
        """See `Source.names`."""
        return sorted(name for name in self._folders(self._root) if is_name(name))

    def versions(self, name: str) -> list[str]:
        """See `Source.versions`."""
        if not is_name(name):
            return []
        try:
            return [version for version in self._folders(f"{self._root}/{name}") if is_version(version)]
        except FileNotFoundError:
            return []

    def text(self, name: str, file: str) -> str | None:
        """See `Source.text`."""
        with self._trouble():
            try:
                return self._small(f"{self._root}/{name}/{file}", MAX_LABEL_BYTES).decode()
            except FileNotFoundError:
                return None
            except UnicodeDecodeError as error:
                raise SourceError(f"{self.url}/{name}/{file}: not a text in UTF-8") from error

    def fetch(self, name: str, version: str) -> Path:
        """See `Source.fetch`. What was mirrored before is only compared with the store's manifest."""
        place = f"{self._root}/{name}/{version}"
        target = self._folder / name / version
        with self._trouble():
            try:
                manifest = self._small(f"{place}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
            except FileNotFoundError:
                return self._fetch_plain(place, target)
            if _has(target / MANIFEST_NAME, manifest):
                return target
            family = self._manifest(f"{self.url}/{name}/{version}/{MANIFEST_NAME}", manifest)
            staging = target.with_name(f".part-{version}-{hashlib.sha256(manifest).hexdigest()[:16]}")
            with self._alone(target):
                if _has(target / MANIFEST_NAME, manifest):
                    return target  # another process was faster
                give_up_s = self._clock() + self._timeout_s
                staging.mkdir(parents=True, exist_ok=True)
                for variant in family.variants:
                    if variant.file and variant.sha256 and variant.size_bytes:
                        wanted = variant.size_bytes, variant.sha256
                        self._download(f"{place}/{variant.file}", staging / variant.file, wanted, give_up_s)
                (staging / MANIFEST_NAME).write_bytes(manifest)
                _put(staging, target)
        log.info("mirrored", extra={"model": f"{name}/{version}", "source": self.url})
        return target

    def _fetch_plain(self, place: str, target: Path) -> Path:
        """A version of one ONNX file, whose content nobody vouches for: it must not change while it is copied."""
        remote = f"{place}/{PLAIN_MODEL}"
        try:
            before = self._files.info(remote)
        except FileNotFoundError:
            raise ManifestError(
                f"{self.url}: {target.parent.name}/{target.name} has neither {MANIFEST_NAME} nor {PLAIN_MODEL}"
            ) from None
        mark = self._mark(before)
        if _has(target / ".mark", mark):
            return target
        if int(before["size"]) > MAX_PLAIN_BYTES:
            raise ManifestError(f"{remote}: larger than {MAX_PLAIN_BYTES} bytes")
        staging = target.with_name(f".part-{target.name}-{hashlib.sha256(mark).hexdigest()[:16]}")
        with self._alone(target):
            staging.mkdir(parents=True, exist_ok=True)
            wanted = int(before["size"]), None
            self._download(remote, staging / PLAIN_MODEL, wanted, self._clock() + self._timeout_s)
            if self._mark(self._files.info(remote)) != mark:
                shutil.rmtree(staging, ignore_errors=True)
                raise ManifestError(f"{remote}: changed while it was copied; the next look tries again")
            (staging / ".mark").write_bytes(mark)
            _put(staging, target)
        return target

    def _download(self, remote: str, local: Path, wanted: tuple[int, str | None], give_up_s: float) -> None:
        """One file, going on where an earlier try ended. Raises `ManifestError`."""
        size, sha256 = wanted
        if local.exists() and local.stat().st_size > size:
            local.unlink()
        have = local.stat().st_size if local.exists() else 0
        try:
            with self._files.open(remote, "rb") as source, local.open("ab") as target:
                source.seek(have)
                while have <= size and (chunk := source.read(min(CHUNK_BYTES, size + 1 - have))):
                    target.write(chunk)
                    have += len(chunk)
                    if self._clock() > give_up_s:
                        raise ManifestError(
                            f"{remote}: not copied within {self._timeout_s:g} s, {have} of {size} bytes are here; "
                            "the next look goes on"
                        )
        except FileNotFoundError:
            raise ManifestError(f"{remote}: named by the manifest, but not there (yet)") from None
        if have < size:
            raise ManifestError(
                f"{remote}: has {have} bytes, should have {size}: it is still being written, or damaged"
            )
        if have > size or (sha256 is not None and sha256_of(local) != sha256):
            local.unlink()
            raise ManifestError(f"{remote}: is not what the manifest says: still being written, or damaged")

    def _folders(self, place: str) -> list[str]:
        """Names of the folders right below a place. Raises `FileNotFoundError`, or `SourceError`."""
        with self._trouble():
            try:
                entries: list[dict[str, Any]] = self._files.ls(place, detail=True)
            except FileNotFoundError:
                if place == self._root:
                    raise SourceError(f"{self.url}: there is nothing there") from None
                raise
        return [PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory"]

    def _small(self, remote: str, most: int) -> bytes:
        with self._files.open(remote, "rb") as file:
            content: bytes = file.read(most + 1)
        if len(content) > most:
            raise ManifestError(f"{remote}: larger than {most} bytes")
        return content

    def _manifest(self, where: str, content: bytes) -> Family:
        try:
            return Family.model_validate_json(content)
        except ValidationError as error:
            raise ManifestError(f"{where}: {describe(error)}") from error

    def _mark(self, info: dict[str, Any]) -> bytes:
        """What of a file's description changes when its content does."""
        known = ("size", "ETag", "etag", "md5Hash", "LastModified", "mtime", "updated", "created", "version_id")
        return repr([(key, str(info[key])) for key in known if key in info]).encode()

    @contextlib.contextmanager
    def _alone(self, target: Path) -> Iterator[None]:
        """One process fetches a version; the others find it there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock", timeout=self._timeout_s)
        try:
            lock.acquire()
        except Timeout:
            raise ManifestError(f"{self.url}: another process has been fetching for {self._timeout_s:g} s") from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """Whatever a store's client raises becomes one kind of error."""
        try:
            yield
        except (ManifestError, SourceError, FileNotFoundError):
            raise
        except Exception as error:
            text = str(error).strip().split("\n", 1)[0][:200]
            raise SourceError(f"{self.url}: cannot be read: {type(error).__name__}: {text}") from error


def is_name(text: str) -> bool:
    """Whether a folder can be a model."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def is_version(text: str) -> bool:
    """Whether a folder can be a version."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _has(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False


def _put(staging: Path, target: Path) -> None:
    """Move a whole version to its place; one that was there before, with other content, goes."""
    if target.exists():
        old = target.with_name(f".old-{target.name}-{os.getpid()}")
        target.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    staging.rename(target)
