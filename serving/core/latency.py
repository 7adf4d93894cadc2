"""How long a batch will take: the measured table, corrected by what is seen while serving.

Three parts, from slow to fast: an isotonic table by batch size for each variant, seeded by calibration;
one slowdown shared by all variants (the host is busy, the clock throttles: it hits everything alike, as in
ALERT, ATC'20); and the pooled ratios of observed to predicted time of the last batches, which give the
quantiles. A straight line a + b*n is not enough: caches and thread pools bend it.

A variant that runs elsewhere shares neither this host's slowdown nor its noise. It has a factor of its own, which
follows the time that most of its answers keep (`ELSEWHERE_QUANTILE`), and teaches nothing about the others.
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Collection, Sequence
from math import exp, inf, log

SLOWDOWN_WEIGHT = 0.1
"""Weight of the newest batch in the slowdown: about the last ten batches count."""
RATIO_CLIP = 2.0
"""A batch beyond this ratio is a stall: it shows in the quantiles and must not bend the mean."""
RESIDUALS = 200
"""Batches whose residual ratio is kept."""
KNEE_TOLERANCE = 0.02
"""Throughput given up for the shorter batch: latency is worth a little of it."""
ELSEWHERE_QUANTILE = 0.9
"""Share of the answers of a variant elsewhere that come within its predicted time."""
ELSEWHERE_STEP = 0.1
"""Largest step of the logarithm of its factor. The steps up and down balance at the quantile (Robbins and Monro,
"A Stochastic Approximation Method", 1951)."""
PRIOR_RESIDUALS = (0.95, 0.98, 1.0, 1.0, 1.0, 1.02, 1.05, 1.1, 1.15, 1.25)
"""Believed until batches have been seen: calibration noise on a shared two-core host."""


class LatencyTable:
    """Service time in seconds by rows, never falling with more rows.

    Interpolates between the measured sizes and goes on with the last slope beyond them.
    """

    __slots__ = ("_seconds", "_slope_s", "rows")

    def __init__(self, rows: Sequence[int], seconds: Sequence[float]) -> None:
        """`rows` rise; `seconds[i]` is the time of `rows[i]` rows."""
        self.rows = tuple(rows)
        smooth = isotonic(seconds)
        self._seconds = _dense(self.rows, smooth)
        per_row_s = smooth[-1] / self.rows[-1]
        if len(self.rows) > 1:
            last_s = (smooth[-1] - smooth[-2]) / (self.rows[-1] - self.rows[-2])
            self._slope_s = max(last_s, per_row_s / 2)  # noise at the end must not make large batches free
        else:
            self._slope_s = per_row_s

    def knee_rows(self, batch_overhead_s: float, most: int) -> int:
        """The smallest batch of at most `most` rows whose throughput is within `KNEE_TOLERANCE` of the best.

        `batch_overhead_s` is what every batch costs besides the model: it makes larger batches pay.
        """
        sizes = [size for size in (1 << power for power in range(most.bit_length())) if size < most]
        sizes.append(most)
        rates = [size / (self.seconds(size) + batch_overhead_s) for size in sizes]
        enough = max(rates) * (1 - KNEE_TOLERANCE)
        return next(size for size, rate in zip(sizes, rates, strict=True) if rate >= enough)

    def seconds(self, rows: int) -> float:
        """Time of a batch of `rows` (>= 1) rows."""
        known = len(self._seconds)
        if rows <= known:
            return self._seconds[rows - 1]
        return self._seconds[-1] + (rows - known) * self._slope_s

    def least_seconds_per_row(self, within_s: float, most: int, batch_s: float = 0.0) -> float:
        """Least worker-seconds a row can cost in a batch of at most `most` rows that takes no longer than `within_s`.

        Each batch takes `batch_s` besides its rows. A batch of one is always allowed: a variant slower than the limit
        keeps its real price.
        """
        best_s = self.seconds(1) + batch_s
        for rows in (*(rows for rows in self.rows if rows < most), most):
            took_s = self.seconds(rows) + batch_s
            if took_s <= within_s:
                best_s = min(best_s, took_s / rows)
        return best_s


class LatencyModel:
    """Predicted service times of the variants of one family. Deterministic; times in seconds."""

    def __init__(
        self,
        tables: Sequence[LatencyTable],
        prior_residuals: Sequence[float] = PRIOR_RESIDUALS,
        elsewhere: Collection[int] = (),
    ) -> None:
        """`prior_residuals` (at least one) are believed until `RESIDUALS` batches have displaced them.

        `elsewhere`: the variants that do not run on this host.
        """
        self.tables = tuple(tables)
        self._log_own = dict.fromkeys(elsewhere, 0.0)
        self._here = [variant for variant in range(len(self.tables)) if variant not in self._log_own]
        self._factors = [1.0] * len(self.tables)
        """What the table of each variant is multiplied by."""
        self.suspended: frozenset[int] = frozenset()
        """Variants that cannot run now: they would take for ever."""
        self.slowdown = 1.0
        self._log_slowdown = 0.0
        self._prior = tuple(prior_residuals)
        self._recent: deque[float] = deque(prior_residuals, maxlen=RESIDUALS)
        self._sorted: list[float] = sorted(prior_residuals)

    def mean_s(self, variant: int, rows: int) -> float:
        """Expected time of a batch, seconds; infinite while the variant is suspended."""
        return self.tables[variant].seconds(rows) * self._factors[variant]

    def relative(self, variant: int) -> float:
        """How much slower than by its table a variant is, compared with this host's slowdown."""
        return self._factors[variant] / self.slowdown if variant in self._log_own else 1.0

    def suspend(self, variant: int) -> None:
        """From now on the variant takes for ever."""
        self.suspended |= {variant}
        self._factors[variant] = inf

    def resume(self, variant: int, factor: float | None = None) -> None:
        """It can run again. `factor`: observed over tabled time of a variant elsewhere, just seen."""
        self.suspended -= {variant}
        if variant in self._log_own:
            if factor is not None:
                self._log_own[variant] = log(factor)
            self._factors[variant] = exp(self._log_own[variant])
        else:
            self._factors[variant] = self.slowdown

    def quantile_ratio(self, quantile: float) -> float:
        """What `mean_s` is multiplied by to hold with probability `quantile`, 0 < quantile <= 1."""
        return self._sorted[min(len(self._sorted) - 1, int(quantile * len(self._sorted)))]

    def met_probability(self, expected_s: float, slack_s: float) -> float:
        """Probability that a batch expected to take `expected_s` is done within `slack_s`."""
        if slack_s <= 0:
            return 0.0
        # A hair of tolerance: a prediction that is exact must not fail on the last bit of a float.
        return bisect_right(self._sorted, slack_s / expected_s + 1e-9) / len(self._sorted)

    def observe(self, variant: int, rows: int, seconds: float, expected_s: float | None = None) -> float:
        """Learn from one finished batch; returns observed / predicted as it was before learning.

        `expected_s`: what would have been predicted, had been known what is known now. A cascade takes as long as
        rows go on; only the rest is news of this host.
        """
        if variant in self._log_own:
            return self._observe_elsewhere(variant, rows, seconds)
        ratio = seconds / (self.mean_s(variant, rows) if expected_s is None else expected_s)
        clipped = min(max(ratio, 1 / RATIO_CLIP), RATIO_CLIP)
        self._set_slowdown(self._log_slowdown + SLOWDOWN_WEIGHT * log(clipped))
        self._remember(ratio)
        return ratio

    def relax(self) -> None:
        """Go half the way back to what calibration said: what was learnt is old, and nothing new is seen."""
        self._set_slowdown(self._log_slowdown / 2)
        self.fade()

    def fade(self) -> None:
        """Forget a quarter of the noise that was seen."""
        for _ in range(RESIDUALS // 4 // len(self._prior)):
            for ratio in self._prior:
                self._remember(ratio)

    def _observe_elsewhere(self, variant: int, rows: int, seconds: float) -> float:
        before = self._log_own[variant]
        ratio = seconds / (self.tables[variant].seconds(rows) * exp(before))
        step = ELSEWHERE_QUANTILE if ratio > 1 else ELSEWHERE_QUANTILE - 1
        self._log_own[variant] = before + ELSEWHERE_STEP * step
        if variant not in self.suspended:
            self._factors[variant] = exp(self._log_own[variant])
        return ratio

    def _set_slowdown(self, log_slowdown: float) -> None:
        self._log_slowdown = log_slowdown
        self.slowdown = exp(log_slowdown)
        for variant in self._here:
            self._factors[variant] = self.slowdown

    def _remember(self, ratio: float) -> None:
        if len(self._recent) == RESIDUALS:
            del self._sorted[bisect_right(self._sorted, self._recent[0]) - 1]
        self._recent.append(ratio)
        insort(self._sorted, ratio)


def isotonic(values: Sequence[float]) -> list[float]:
    """Nearest non-falling sequence in least squares (pool adjacent violators; Ayer et al., 1955)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    return [mean for mean, size in blocks for _ in range(size)]


def _dense(rows: tuple[int, ...], seconds: list[float]) -> list[float]:
    """One entry a row count from 1 to the largest measured, linear in between."""
    dense: list[float] = []
    at, at_s = rows[0], seconds[0]
    dense.extend([at_s] * at)  # below the smallest measured size nothing is known to be faster
    for n, s in zip(rows[1:], seconds[1:], strict=True):
        dense.extend(at_s + (s - at_s) * step / (n - at) for step in range(1, n - at + 1))
        at, at_s = n, s
    return dense
