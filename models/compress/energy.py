"""Energy spent, from the processor's own counters where they can be read, else from processor time.

RAPL (running average power limit) counts what the packages and their memory draw: Linux, "Power Capping
Framework". Since 2020 only root may read it (CVE-2020-8694), and virtual machines rarely have it.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Source = Literal["none", "estimate", "rapl"]
"""As in `LatencyProfile.energy_source`."""

POWERCAP = Path("/sys/class/powercap")
COUNTED = ("package", "dram")
"""Domains that do not contain each other: `core` and `uncore` lie inside a package, `psys` around all."""


class EnergyMeter(Protocol):
    """A counter of joules that only rises."""

    @property
    def source(self) -> Source:
        """Where its figures come from."""
        ...

    def joules(self) -> float:
        """Energy since the meter was made."""
        ...


@dataclass(slots=True)
class _Domain:
    """One RAPL counter, in microjoules, and what it has counted."""

    counter: Path
    wraps_at: int
    last: int
    total: int = 0

    def advance(self) -> int:
        """Read on; a counter that fell has wrapped once, which takes it minutes at least."""
        now = int(self.counter.read_text(encoding="ascii"))
        self.total += now - self.last if now >= self.last else now - self.last + self.wraps_at
        self.last = now
        return self.total


class RaplMeter:
    """What the processor packages and their memory drew, other programs' share included."""

    source: Source = "rapl"

    def __init__(self, domains: list[_Domain]) -> None:
        self._domains = domains

    def joules(self) -> float:
        """Energy since the meter was made. Raises `OSError` if the counters go away."""
        return sum(domain.advance() for domain in self._domains) / 1e6


class ProcessorTimeMeter:
    """An estimate: the processor time of this process, all threads, times the power a busy core draws."""

    source: Source = "estimate"

    def __init__(self, watts_per_core: float, clock: Callable[[], float] = time.process_time) -> None:
        self._watts_per_core = watts_per_core
        self._clock = clock
        self._started_s = clock()

    def joules(self) -> float:
        """Energy since the meter was made."""
        return (self._clock() - self._started_s) * self._watts_per_core


class NoMeter:
    """Knows nothing."""

    source: Source = "none"

    def joules(self) -> float:
        """Always 0."""
        return 0.0


def open_meter(watts_per_core: float, root: Path = POWERCAP) -> EnergyMeter:
    """The best meter of this host; `watts_per_core` 0 allows no estimate."""
    domains = list(_domains(root))
    if domains:
        return RaplMeter(domains)
    return ProcessorTimeMeter(watts_per_core) if watts_per_core > 0 else NoMeter()


def _domains(root: Path) -> Iterator[_Domain]:
    for zone in sorted(root.glob("intel-rapl:*")):  # AMD's counters have this name too; intel-rapl-mmio repeats them
        try:
            if not (zone / "name").read_text(encoding="ascii").startswith(COUNTED):
                continue
            wraps_at = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            yield _Domain(zone / "energy_uj", wraps_at, int((zone / "energy_uj").read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue  # not ours to read, or not there
