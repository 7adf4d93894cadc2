"""What every load generator returns, and the arithmetic on it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One window of closed-loop load: `connections` callers that each wait for their answer."""

    requests: int
    """Answers read in the window, whatever their status."""
    seconds: float
    p50_s: float
    p99_s: float
    """Latency percentiles over all answers; NaN when there was none."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """How often each kind of error was seen (`connect`, `read`, `write`, `timeout`, `status`); no zeros."""

    @property
    def rps(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending `values`; `share` in (0, 1]. NaN of nothing."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], not {share}")
    if not values:
        return math.nan
    return values[math.ceil(share * len(values)) - 1]


def merge_errors(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return the sums by kind, without zeros."""
    total: dict[str, int] = {}
    for count in counts:
        for kind, number in count.items():
            if number:
                total[kind] = total.get(kind, 0) + number
    return total
