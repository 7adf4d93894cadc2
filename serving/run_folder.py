"""The folder a running server keeps its sockets and numbers in: one owner at a time, fresh at each start."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

METRICS = "metrics"
LISTEN = "listen"
LOGS = "logs"
STOCK = "stock"
LEAVING = "leaving"
"""A file whose presence asks every gateway of the node to leave: unready, still serving."""
LOG_LEVEL = "log-level"
"""A file with the log level of every process of the node, from when it was changed at run time."""


class RunFolderError(RuntimeError):
    """The folder cannot be used; the message says why and what to do."""


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Own the folder for the life of a server. What an earlier run has counted goes, and its logs
    stay until the next start.

    The lock is the kernel's, so it is gone with its process, however that ended. Raises `RunFolderError`.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / "run.lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise RunFolderError(f"another Gearshift runs with {folder}: stop it, or choose another --http-port") from None
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be used: {error.strerror}; set engine.runtime_dir") from error
    try:
        shutil.rmtree(folder / METRICS, ignore_errors=True)
        shutil.rmtree(folder / STOCK, ignore_errors=True)
        (folder / LOG_LEVEL).unlink(missing_ok=True)
        _keep_previous(folder / LOGS)
        yield folder
    finally:
        lock.release()


def _keep_previous(logs: Path) -> None:
    """Logs of the last run are what explains its end."""
    previous = logs.with_name(f"{logs.name}.previous")
    if logs.exists():
        shutil.rmtree(previous, ignore_errors=True)
        logs.rename(previous)
