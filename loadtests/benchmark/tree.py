"""The processes of one server, however many it starts: their CPU time, and their end."""

import contextlib
import os
from collections.abc import Iterable

import psutil

_KILL_WAIT_S = 5.0


class ProcessTree:
    """A root process and everything that descends from it.

    The root must lead its own session. Members are its descendants, and whoever was orphaned but stayed in
    the session: helpers that daemonize with a double fork are found by that.
    """

    def __init__(self, root_pid: int) -> None:
        self._root_pid = root_pid
        self._root = psutil.Process(root_pid)

    def members(self) -> list[psutil.Process]:
        """Return the processes that are alive now, the root among them."""
        found: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            found = {process.pid: process for process in self._root.children(recursive=True)}
            found[self._root_pid] = self._root
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if pid not in found and os.getsid(pid) == self._root_pid:
                    found[pid] = psutil.Process(pid)
        return list(found.values())

    def cpu_s(self) -> float:
        """Return user + system CPU seconds spent so far by the tree.

        Children that ended count through the parent that waited for them. The kernel counts in ticks of
        10 ms a process: take differences over a second or more.
        """
        total = 0.0
        for process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def stop(self, grace_s: float) -> None:
        """End the whole tree: ask the root, then ask whoever is left, then kill. Returns when all are gone."""
        members = self.members()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._root.terminate()
        psutil.wait_procs([self._root], timeout=grace_s)
        # Listed again: the root may have started others since, or left orphans.
        left = _alive(set(members) | set(self.members()))
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(left, timeout=min(grace_s, _KILL_WAIT_S))
        left = _alive(set(left) | set(self.members()))
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_KILL_WAIT_S)


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    # `is_running` compares start times: a number that the kernel gave to somebody else is not ours.
    return [process for process in processes if process.is_running()]
