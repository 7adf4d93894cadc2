"""How many connections each holder of a shared listening socket has, in a small file that all of them map.

Whoever is awake when connections arrive would take them all: of 64 connections that came at once, one of two
processes often got 60 or more. A holder that has more than the least busy one lets it go first (`Listener`).
"""

import contextlib
import math
import mmap
import os
import struct
from pathlib import Path

_SLOTS = 32
_SLOT = struct.Struct("<dII")  # last sign of life (monotonic s; 0: not accepting), connections, process
_DEAD_AFTER_S = 2.0


class LoadBoard:
    """One holder's slot on the board of its port, and its view of the others."""

    def __init__(self, path: Path) -> None:
        """Take a free slot. The caller holds the lock of the port; with no slot free this holder stays unseen."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SLOTS * _SLOT.size)
            self._board = mmap.mmap(descriptor, _SLOTS * _SLOT.size)
        finally:
            os.close(descriptor)
        self._slot: int | None = None
        for slot, (_, _, process) in enumerate(_SLOT.iter_unpack(self._board)):
            if not process or not _lives(process):
                self._slot = slot
                break
        self._write(0.0, 0, os.getpid())

    def post(self, now_s: float, connections: int) -> None:
        """Tell the others. To be repeated at least once a second, or they take this process for dead."""
        self._write(now_s, connections, os.getpid())

    def is_busiest(self, now_s: float, connections: int) -> bool:
        """Whether another living holder has clearly fewer connections than these."""
        least = math.inf
        for slot, (alive_s, others, _) in enumerate(_SLOT.iter_unpack(self._board)):
            if slot != self._slot and 0.0 < alive_s > now_s - _DEAD_AFTER_S:
                least = min(least, others)
        return connections > least + max(1.0, least / 8)

    def surplus(self, now_s: float, connections: int) -> int:
        """How many of these connections would be better off at the other living holders: what is clearly over the mean.

        A holder that has just come has none, and callers who keep theirs would never come to it.
        """
        others = [
            count
            for slot, (alive_s, count, _) in enumerate(_SLOT.iter_unpack(self._board))
            if slot != self._slot and 0.0 < alive_s > now_s - _DEAD_AFTER_S
        ]
        mean = (connections + sum(others)) / (1 + len(others))
        return math.ceil(connections - mean) if connections > mean + max(1.0, mean / 4) else 0

    def withdraw(self) -> None:
        """Accept no more: nobody is to wait for this holder."""
        self._write(0.0, 0, os.getpid())

    def close(self) -> None:
        """Give the slot back."""
        if not self._board.closed:
            self._write(0.0, 0, 0)
            self._board.close()

    def _write(self, alive_s: float, connections: int, process: int) -> None:
        if self._slot is not None and not self._board.closed:
            _SLOT.pack_into(self._board, self._slot * _SLOT.size, alive_s, connections, process)


def _lives(process: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
