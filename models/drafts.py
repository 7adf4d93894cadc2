"""What is in the making, and what a killed process left of it.

A file or a folder is made under another name and then renamed, so that readers see all of it or nothing. Whoever
makes one holds a lock on it (flock). The kernel lets go of that when the process ends, in whatever way; so what
nobody holds is abandoned, and the next one to come removes it. Numbers of processes would not tell: in containers
they are the same each time. Where a file system has no such locks nothing is removed.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".tmp"


def write_whole(place: Path, content: bytes) -> None:
    """Put a file in its place, whole or not at all; its folder is made. Raises `OSError`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        draft = place.with_name(f"{place.name}.{secrets.token_hex(4)}{SUFFIX}")
        try:
            with draft.open("xb") as file:
                if not _held(file.fileno(), draft):
                    continue
                file.write(content)
                file.flush()
                draft.replace(place)
                return
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def folder_in_making(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder `prefix...` beside what it is to become: rename it, else it is removed. Raises `OSError`."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir()
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        if _held(handle, folder):
            break
        os.close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def clear_abandoned(folder: Path, pattern: str) -> list[Path]:
    """Remove what matches in a folder and is held by no process; what could not be removed stays, silently."""
    removed = []
    for path in folder.glob(pattern):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path)
            finally:
                os.close(handle)
    return removed


def _held(handle: int, path: Path) -> bool:
    """Take the lock; False if the path was cleared away in the moment before."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
