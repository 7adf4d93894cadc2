"""The operating system processes of one Ray cluster: found by what they hold open, ended for good."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

_PROGRAMS = frozenset(
    {"raylet", "gcs_server", "default_worker.py", "setup_worker.py", "agent.py", "main.py", "monitor.py"}
)
_TERMINATE_WAIT_S = 1.0
_KILL_WAIT_S = 5.0


def ray_processes(ray_dir: Path) -> list[psutil.Process]:
    """Ray's processes that belong to the cluster whose temporary folder is `ray_dir`; never this process.

    Ray renames its workers, which erases both command line and environment, and pids are reused: what
    stays true is that each of them keeps a log or a socket of its session open. A stranger that reads
    such a file (`tail -f`) is not Ray by its name and is left alone.
    """
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and _is_ray(process.cmdline()) and _uses(process, ray_dir):
                found.append(process)
    return found


def end_processes(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """SIGTERM, then SIGKILL after a second; returns those that outlived both, after at most 6 s."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_TERMINATE_WAIT_S)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _, stuck = psutil.wait_procs(alive, timeout=_KILL_WAIT_S)
    return list(stuck)


def _is_ray(cmdline: list[str]) -> bool:
    if not cmdline:
        return False
    return cmdline[0].startswith("ray::") or any(Path(part).name in _PROGRAMS for part in cmdline[:4])


def _uses(process: psutil.Process, ray_dir: Path) -> bool:
    prefix = f"{ray_dir}{os.sep}"
    # A raylet, a GCS and a starting worker name the folder in their options.
    if any(prefix in part for part in process.cmdline()):
        return True
    return any(file.path.startswith(prefix) for file in process.open_files())
