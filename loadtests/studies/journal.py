"""The file a long study goes on from: one line of JSON for each finished task, under a key of all that it hangs on."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import loadtests
import serving.core
from loadtests.simulation.served import Served
from loadtests.studies.results import SeedResult
from loadtests.study import Task


class JournalError(OSError):
    """The file cannot be read or written; the message names it."""


class Journal:
    """Finished tasks on disk. A line that was cut off, and lines of other studies, are passed over and kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, keys: Sequence[str]) -> dict[str, SeedResult]:
        """The results of those keys that are there. Raises `JournalError`."""
        wanted, found = set(keys), {}
        for line in self._text().splitlines():
            try:
                entry = json.loads(line)
                if entry["task"] in wanted:
                    found[entry["task"]] = SeedResult.read(entry["result"])
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def add(self, key: str, result: SeedResult) -> None:
        """Append one line. Raises `JournalError`."""
        line = json.dumps({"task": key, "result": result.facts()}, allow_nan=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                if file.tell() and not _ends_line(self._path):
                    file.write(b"\n")  # a line was cut off: this one must not hang on to it
                file.write(line.encode() + b"\n")
        except OSError as error:
            raise JournalError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _text(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise JournalError(f"{self._path}: cannot be read: {error.strerror}") from error


def task_keys(tasks: Sequence[Task]) -> list[str]:
    """A key for each task: another one as soon as its requests, policies, durations or the code that decides differ."""
    code = code_digest()
    families: dict[int, str] = {}
    keys = []
    for task in tasks:
        # By identity, for the tasks of a study share their families and those are large.
        served = families.setdefault(id(task.served), "") or _families_digest(task.served)
        families[id(task.served)] = served
        parts = (task.cell.name, task.cell.scenario, task.seed, task.policies, task.assumptions)
        keys.append(sha256(repr((code, served, parts)).encode()).hexdigest())
    return keys


def code_digest() -> str:
    """Of every source file of the core and of the simulator."""
    core, here = Path(serving.core.__file__ or "").parent, Path(loadtests.__file__ or "").parent
    parts = [core, here / "simulation", here / "study.py"]
    parts += [here / f"{name}.py" for name in ("arrivals", "bound", "durations", "simulator", "workload")]
    digest = sha256()
    for part in parts:
        for file in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _families_digest(served: Sequence[Served]) -> str:
    told = [
        (family.name, [(v.name, v.known_accuracy, v.knee_rows, v.energy_mj_per_row) for v in family.variants])
        for family in served
    ]
    digest = sha256(repr(told).encode())
    for family in served:
        digest.update(family.durations.model_dump_json().encode())
    return digest.hexdigest()


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
