"""A circuit breaker: who failed several times in a row is left alone, and asked again now and then. No clock in here.

Nygard, "Release It!", 2007: closed, open, half-open. Half-open here is one question of ours (a probe), never a
request of somebody's: requests return only once the probe was answered.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """When to give up on somebody, and when to ask again."""

    failures: int = 3
    """Failures in a row that open it."""
    cool_down_s: float = 1.0
    """From the opening to the first probe."""
    growth: float = 2.0
    """How much longer each next wait is, >= 1."""
    most_s: float = 60.0
    """No wait is longer than this."""


class Breaker:
    """One party's record. Begins open with a probe due at once: nobody is trusted unseen."""

    def __init__(self, options: BreakerOptions | None = None) -> None:
        self._options = options or BreakerOptions()
        self._row = 0
        self._wait_s = 0.0
        self._closed_at_s = 0.0
        self.open = True
        self.probe_at_s = 0.0
        """When the next probe is due, while open."""

    def failed(self, now_s: float) -> bool:
        """A request failed. True when this opens the breaker; what comes late, while it is open, says nothing new."""
        if self.open:
            return False
        self._row += 1
        if self._row < self._options.failures:
            return False
        # Who was well for no longer than the last wait has not recovered: the waits go on growing.
        relapsed = now_s - self._closed_at_s <= self._wait_s
        self._wait(now_s, self._longer() if relapsed else self._options.cool_down_s)
        self.open = True
        return True

    def succeeded(self) -> None:
        """A request was answered."""
        if not self.open:
            self._row = 0

    def probe_failed(self, now_s: float) -> None:
        """The probe got no answer: wait longer for the next."""
        self._wait(now_s, self._longer())

    def probe_succeeded(self, now_s: float) -> None:
        """The probe was answered: requests may come again."""
        self.open = False
        self._row = 0
        self._closed_at_s = now_s

    def _longer(self) -> float:
        return max(self._options.cool_down_s, min(self._wait_s * self._options.growth, self._options.most_s))

    def _wait(self, now_s: float, wait_s: float) -> None:
        self._wait_s = wait_s
        self.probe_at_s = now_s + wait_s
