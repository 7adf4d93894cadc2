"""What the replicas of a node agree to serve, and how far each has come: small files in the run folder.

A call to load a model reaches one replica; the others must follow. The agreement is one file, replaced whole, that
every replica watches; its generation number rises with each change. Each replica keeps a file of its own that says
which generation it has reached, so that whoever changed something can wait for all of them.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from serving.config import ModelSettings

LOCK_TIMEOUT_S = 10.0
WATCH_S = 0.1
"""How often a wait looks at the others."""

Models = Mapping[str, Mapping[str, str]]
"""Model name -> version -> digest of its content."""


class LedgerError(RuntimeError):
    """The agreement cannot be read or changed; the message says why."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is to be served."""

    generation: int
    models: Models


@dataclass(frozen=True, slots=True)
class Member:
    """A living replica of the node."""

    name: str
    generation: int
    """The newest it has made its own."""
    failures: Mapping[str, str]
    """Reason by model key, of what it could not load."""


class Ledger:
    """One replica's hand on the node's agreement. Methods read and write small files and may block for moments."""

    def __init__(self, folder: Path, settings: ModelSettings) -> None:
        """Replicas with other settings about models make another agreement: a rolling update may change them."""
        told = settings.model_dump_json(include={"repository", "name", "versions", "control", "load"})
        self._folder = folder / hashlib.sha256(told.encode()).hexdigest()[:16]
        self._agreed = self._folder / "agreed.json"
        self._members = self._folder / "members"
        self._members.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._born_s = psutil.Process().create_time()
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._seen: tuple[int, int] | None = None
        self._leader: FileLock | None = None

    def read(self) -> Agreement | None:
        """The agreement, or None before the first."""
        self._seen = self._stamp()
        try:
            told = json.loads(self._agreed.read_text(encoding="utf-8"))
            return Agreement(int(told["generation"]), {name: dict(found) for name, found in told["models"].items()})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(f"{self._agreed}: cannot be read: {error}") from error

    def changed(self) -> bool:
        """Whether the agreement may be another one than was last read. Costs one look at the file's date."""
        return self._stamp() != self._seen

    def agree(self, change: Callable[[dict[str, dict[str, str]]], Models]) -> Agreement:
        """Change the agreement: from the models as they are, to what they shall be. Raises `LedgerError`."""
        try:
            with FileLock(self._folder / "agreed.lock", timeout=LOCK_TIMEOUT_S):
                before = self.read() or Agreement(0, {})
                models = change({name: dict(found) for name, found in before.models.items()})
                if before.generation and models == before.models:
                    return before
                after = Agreement(before.generation + 1, models)
                _write(self._agreed, {"generation": after.generation, "models": models})
        except Timeout:
            raise LedgerError(f"{self._agreed}: locked by another replica for {LOCK_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise LedgerError(f"{self._agreed}: cannot be written: {error.strerror}") from error
        return after

    def report(self, generation: int, failures: Mapping[str, str]) -> None:
        """Tell how far this replica has come. A full disk costs the others' patience, and nothing else."""
        told = {
            "pid": os.getpid(), "born_s": self._born_s, "generation": generation, "failures": dict(failures)
        }  # fmt: skip
        with contextlib.suppress(OSError):
            _write(self._members / f"{self.name}.json", told)

    def leave(self) -> None:
        """This replica ends: nobody shall wait for it."""
        (self._members / f"{self.name}.json").unlink(missing_ok=True)
        if self._leader is not None:
            self._leader.release()
            self._leader = None

    def lead(self) -> bool:
        """Whether this replica is the one of its node that looks after the repository. It stays so until it ends."""
        if self._leader is not None:
            return True
        lock = FileLock(self._folder / "leader.lock", thread_local=False)  # let go of in another thread
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            return False
        self._leader = lock
        return True

    def others(self) -> list[Member]:
        """The other living replicas. What a dead one has left is removed."""
        found = []
        for file in self._members.glob("*.json"):
            if file.stem == self.name:
                continue
            try:
                told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
                alive = _lives(int(told["pid"]), float(told["born_s"]))
                member = Member(file.stem, int(told["generation"]), dict(told["failures"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # just gone, or of another version of this program
            if alive:
                found.append(member)
            else:
                file.unlink(missing_ok=True)
        return found

    async def reached(self, generation: int, within_s: float) -> list[Member]:
        """The others, once all have made a generation their own. Raises `LedgerError` that names who has not."""
        give_up_s = time.monotonic() + within_s
        while True:
            members = await asyncio.to_thread(self.others)
            behind = [member.name for member in members if member.generation < generation]
            if not behind:
                return members
            if time.monotonic() > give_up_s:
                raise LedgerError(f"not followed within {within_s:g} s by: {', '.join(sorted(behind))}")
            await asyncio.sleep(WATCH_S)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            info = self._agreed.stat()
        except OSError:
            return None
        return info.st_ino, info.st_mtime_ns


def _write(file: Path, told: Mapping[str, Any]) -> None:
    """Replace a file whole."""
    whole = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    whole.write_text(json.dumps(told), encoding="utf-8")
    whole.replace(file)


def _lives(pid: int, born_s: float) -> bool:
    """Whether the process lives, and is not another one that got its number."""
    try:
        return abs(float(psutil.Process(pid).create_time()) - born_s) < 1.0
    except psutil.Error:
        return False
