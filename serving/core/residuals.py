"""How far service times scatter around their prediction: the usual noise, and stalls apart from it.

The usual noise is the window of the last ratios of observed to predicted time. A batch that takes more than `STALL`
times its prediction met something else: the processor was taken away, a collection ran, a page was read. Stalls are too
rare for a window to hold a steady share of them: with one in two hundred it would hold one, or none, and promises would
come and go with it. Their share is learnt over more batches, and their lengths are kept by themselves.
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence

WINDOW = 200
"""Batches whose ratio is kept."""
STALL = 2.0
"""Ratio of observed to predicted time beyond which a batch stalled."""
STALLS = 30
"""Stalls whose ratio is kept."""
STALL_WEIGHT = 1 / 500
"""Weight of the newest batch in the share of batches that stall."""
CALIBRATION_NOISE = (0.95, 0.98, 1.0, 1.0, 1.0, 1.02, 1.05, 1.1, 1.15, 1.25)
"""Believed until batches have been seen: what calibration sees on a shared two-core host."""


class Residuals:
    """Ratios of observed to predicted time."""

    def __init__(self, prior: Sequence[float] = CALIBRATION_NOISE) -> None:
        """`prior`: ratios (at least one, none a stall) believed until `WINDOW` batches have displaced them."""
        self._prior = tuple(prior)
        self._usual = _Latest(WINDOW, prior)
        self._stalls = _Latest(STALLS)
        self.stall_share = 0.0
        """Share of batches that stall."""

    def see(self, ratio: float) -> None:
        """One batch."""
        stalled = ratio > STALL
        (self._stalls if stalled else self._usual).add(ratio)
        self.stall_share += STALL_WEIGHT * (stalled - self.stall_share)

    def fade(self) -> None:
        """Forget a quarter of the noise that was seen."""
        for _ in range(WINDOW // 4 // len(self._prior)):
            for ratio in self._prior:
                self._usual.add(ratio)
        self.stall_share *= 0.75

    def quantile(self, share: float) -> float:
        """What a predicted time is multiplied by to hold for that share of batches, 0 < share <= 1."""
        usual = 1 - self.stall_share
        if share <= usual or not self._stalls.sorted:
            return self._usual.quantile(min(1.0, share / usual))
        return self._stalls.quantile((share - usual) / self.stall_share)

    def chance(self, ratio: float) -> float:
        """Probability that a batch takes no more than `ratio` times its prediction."""
        numbers = self._usual.sorted
        usual = bisect_right(numbers, ratio) / len(numbers)
        if not self.stall_share:
            return usual
        return usual + self.stall_share * (self._stalls.share(ratio) - usual)


class _Latest:
    """The last so many numbers, also in order."""

    __slots__ = ("_latest", "sorted")

    def __init__(self, most: int, first: Sequence[float] = ()) -> None:
        self._latest: deque[float] = deque(first, maxlen=most)
        self.sorted = sorted(first)

    def add(self, number: float) -> None:
        if len(self._latest) == self._latest.maxlen:
            del self.sorted[bisect_right(self.sorted, self._latest[0]) - 1]
        self._latest.append(number)
        insort(self.sorted, number)

    def quantile(self, share: float) -> float:
        return self.sorted[min(len(self.sorted) - 1, int(share * len(self.sorted)))]

    def share(self, number: float) -> float:
        """Share of them that are no larger."""
        return bisect_right(self.sorted, number) / len(self.sorted) if self.sorted else 0.0
