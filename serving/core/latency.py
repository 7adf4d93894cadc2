"""How long a batch will take: the measured table, corrected by what is seen while serving.

From slow to fast: an isotonic table by batch size for each variant, seeded by calibration and corrected as a whole when
it turns out wrong (`serving.core.drift`); what other busy workers add to a variant, which share the memory with it; one
slowdown shared by all variants (the host is busy, the clock throttles: it hits everything alike, as in ALERT, ATC'20);
and the scatter of the last batches around all that (`serving.core.residuals`). A straight line a + b*n is not enough:
caches and thread pools bend it.

A variant that runs elsewhere shares neither this host's slowdown nor its noise. It has a factor of its own, which
follows the time that most of its answers keep (`ELSEWHERE_QUANTILE`), and teaches nothing about the others.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from math import exp, inf, log

from serving.core.drift import Drift, Shift
from serving.core.residuals import CALIBRATION_NOISE, STALL, Residuals

SLOWDOWN_WEIGHT = 0.1
"""Weight of the newest batch in the slowdown: about the last ten batches count."""
RATIO_CLIP = STALL
"""A batch beyond this ratio is a stall: it shows in the residuals and must not bend the mean."""
CROWDING_WEIGHT = 0.04
"""Step of what other busy workers add, for each batch: learnt in about a hundred batches with few and many others."""
CROWD_WEIGHT = 0.02
"""Weight of the newest batch in the usual number of busy workers, which that is told apart from."""
MOST_CROWDING = log(3.0)
LEAST_CROWDING = log(0.8)
PRICE_STEP = 0.05
"""Change of it that is worth new prices."""
UNSEEN = 1_000
"""Batches after which half is forgotten of a correction to a variant that was not seen among them. One taken for slow
is not chosen, and would never be seen again."""
MOST_CORRECTION = log(30.0)
KNEE_TOLERANCE = 0.02
"""Throughput given up for the shorter batch: latency is worth a little of it."""
ELSEWHERE_QUANTILE = 0.9
"""Share of the answers of a variant elsewhere that come within its predicted time."""
ELSEWHERE_STEP = 0.1
"""Largest step of the logarithm of its factor. The steps up and down balance at the quantile (Robbins and Monro,
"A Stochastic Approximation Method", 1951)."""


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

    def copy(self) -> "LatencyTable":
        """The same, to be stretched by itself."""
        return copy(self)  # shallow: what is stretched is made anew

    def stretch(self, factor: float) -> None:
        """From now on every batch takes `factor` times as long as it said."""
        self._seconds = [seconds * factor for seconds in self._seconds]
        self._slope_s *= factor

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
        prior_residuals: Sequence[float] = CALIBRATION_NOISE,
        elsewhere: Collection[int] = (),
        cascades: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        """The tables are its own: it corrects them. `prior_residuals`: see `Residuals`.

        `elsewhere`: the variants that do not run on this host. `cascades`: those that consist of two others, the first
        and the one that unsure rows go on to.
        """
        self.tables = tuple(tables)
        self.revision = 0
        """Rises when tables were corrected, and with `crowding`."""
        self.suspended: frozenset[int] = frozenset()
        """Variants that cannot run now: they would take for ever."""
        self.slowdown = 1.0
        self.residuals = Residuals(prior_residuals)
        self._log_own = dict.fromkeys(elsewhere, 0.0)
        self._here = [variant for variant in range(len(self.tables)) if variant not in self._log_own]
        self._cascades = dict(cascades or {})
        single = [variant for variant in self._here if variant not in self._cascades]
        self._drift = Drift(single)
        self._log_corrections = dict.fromkeys(single, 0.0)
        self._seen: set[int] = set()
        self._batches = 0
        self._factors = [1.0] * len(self.tables)
        """What the table of each variant is multiplied by."""
        self._full_factors = list(self._factors)
        """The same when all other workers are busy."""
        self._log_slowdown = 0.0
        self._crowd = 0.0
        self._crowding = [0.0] * len(self.tables)
        """Logarithm of what a host full of other batches multiplies the time of each variant by."""
        self._priced_crowding = list(self._crowding)
        self._usual_crowd = [0.5] * len(self.tables)

    def mean_s(self, variant: int, rows: int) -> float:
        """Expected time of a batch, seconds; infinite while the variant is suspended."""
        return self.tables[variant].seconds(rows) * self._factors[variant]

    def relative(self, variant: int) -> float:
        """How much slower than by its table a variant is on a full host, compared with this host's slowdown."""
        return self._factors[variant] / self.slowdown if variant in self._log_own else self.crowding(variant)

    def crowding(self, variant: int) -> float:
        """What a host full of other batches multiplies the time of a variant by; 1 for one elsewhere."""
        return exp(self._priced_crowding[variant])

    def full_s(self, variant: int, rows: int) -> float:
        """Expected time of a batch on a full host, seconds."""
        return self.tables[variant].seconds(rows) * self._full_factors[variant]

    def attend(self, crowd: float) -> None:
        """Predict for batches that start while this share of the other workers is busy, 0..1."""
        if crowd != self._crowd:
            self._crowd = crowd
            self._set_slowdown(self._log_slowdown)

    def suspend(self, variant: int) -> None:
        """From now on the variant takes for ever."""
        self.suspended |= {variant}
        self._factors[variant] = self._full_factors[variant] = inf

    def resume(self, variant: int, factor: float | None = None) -> None:
        """It can run again. `factor`: observed over tabled time of a variant elsewhere, just seen."""
        self.suspended -= {variant}
        if variant in self._log_own:
            if factor is not None:
                self._log_own[variant] = log(factor)
            self._follow_answers(variant)
        else:
            self._set_slowdown(self._log_slowdown)

    def quantile_ratio(self, quantile: float) -> float:
        """What `mean_s` is multiplied by to hold with probability `quantile`, 0 < quantile <= 1."""
        return self.residuals.quantile(quantile)

    def met_probability(self, expected_s: float, slack_s: float) -> float:
        """Probability that a batch expected to take `expected_s` is done within `slack_s`."""
        if slack_s <= 0:
            return 0.0
        # A hair of tolerance: a prediction that is exact must not fail on the last bit of a float.
        return self.residuals.chance(slack_s / expected_s + 1e-9)

    def observe(
        self, variant: int, rows: int, seconds: float, expected_s: float | None = None, crowd: float = 0.0
    ) -> float:
        """Learn from one finished batch; returns observed / predicted as it was before learning.

        `expected_s`: what would have been predicted, had been known what is known now. A cascade takes as long as
        rows go on; only the rest is news of this host. `crowd`: as for `attend`, when the batch started.
        """
        if variant in self._log_own:
            return self._observe_elsewhere(variant, rows, seconds)
        if expected_s is None:
            log_factor = self._log_slowdown + crowd * self._crowding[variant]
            expected_s = self.tables[variant].seconds(rows) * exp(log_factor)
        ratio = seconds / expected_s
        log_ratio = log(min(max(ratio, 1 / RATIO_CLIP), RATIO_CLIP))
        self.residuals.see(ratio)
        shift = None
        if variant in self._log_corrections:
            self._learn_crowding(variant, log_ratio, crowd)
            shift = self._drift.see(variant, log_ratio, self._log_slowdown)
        if shift is None:
            self._set_slowdown(self._log_slowdown + SLOWDOWN_WEIGHT * log_ratio)
        else:
            self._follow(shift)
        self._forget_unseen(variant)
        return ratio

    def relax(self) -> None:
        """Go half the way back to what calibration said: what was learnt is old, and nothing new is seen."""
        self._set_slowdown(self._log_slowdown / 2)
        self._correct({variant: -correction / 2 for variant, correction in self._log_corrections.items()})
        self.fade()

    def fade(self) -> None:
        """Forget a quarter of the noise that was seen."""
        self.residuals.fade()

    def _observe_elsewhere(self, variant: int, rows: int, seconds: float) -> float:
        before = self._log_own[variant]
        ratio = seconds / (self.tables[variant].seconds(rows) * exp(before))
        step = ELSEWHERE_QUANTILE if ratio > 1 else ELSEWHERE_QUANTILE - 1
        self._log_own[variant] = before + ELSEWHERE_STEP * step
        if variant not in self.suspended:
            self._follow_answers(variant)
        return ratio

    def _follow_answers(self, elsewhere: int) -> None:
        self._factors[elsewhere] = self._full_factors[elsewhere] = exp(self._log_own[elsewhere])

    def _learn_crowding(self, variant: int, log_ratio: float, crowd: float) -> None:
        """One step down the gradient of the squared error, with respect to what other busy workers add."""
        apart = crowd - self._usual_crowd[variant]
        self._usual_crowd[variant] += CROWD_WEIGHT * apart
        crowding = self._crowding[variant] + CROWDING_WEIGHT * log_ratio * apart
        self._crowding[variant] = crowding = min(max(crowding, LEAST_CROWDING), MOST_CROWDING)
        if abs(crowding - self._priced_crowding[variant]) > PRICE_STEP:
            self._priced_crowding[variant] = crowding
            self.revision += 1

    def _follow(self, shift: Shift) -> None:
        """Most variants moved: the host did, and those that did not are told by their tables. Else the tables moved."""
        here = self._log_corrections.keys()
        if 2 * len(shift.variants) > len(here):
            self._set_slowdown(self._log_slowdown + shift.log_factor)
            self._correct(dict.fromkeys(here - shift.variants, -shift.log_factor))
        else:
            self._correct(dict.fromkeys(shift.variants, shift.log_factor))

    def _forget_unseen(self, variant: int) -> None:
        self._seen.add(variant)
        self._batches += 1
        if self._batches % UNSEEN == 0:
            unseen = self._log_corrections.keys() - self._seen
            self._correct({other: -self._log_corrections[other] / 2 for other in unseen})
            self._seen.clear()

    def _correct(self, log_factors: Mapping[int, float]) -> None:
        """Stretch the tables of these variants, and of the cascades that consist of them."""
        steps = {}
        for variant, log_factor in log_factors.items():
            before = self._log_corrections[variant]
            after = min(max(before + log_factor, -MOST_CORRECTION), MOST_CORRECTION)
            if after != before:
                self._log_corrections[variant], steps[variant] = after, exp(after - before)
        if not steps:
            return
        self.revision += 1
        for cascade, (first, then) in self._cascades.items():
            first_s, both_s = self.tables[first].seconds(1), self.tables[cascade].seconds(1)
            went_on_s = (both_s - first_s) * steps.get(then, 1.0)
            self.tables[cascade].stretch((first_s * steps.get(first, 1.0) + went_on_s) / both_s)
        for variant, factor in steps.items():
            self.tables[variant].stretch(factor)

    def _set_slowdown(self, log_slowdown: float) -> None:
        self._log_slowdown = log_slowdown
        self.slowdown = exp(log_slowdown)
        for variant in self._here:
            if variant not in self.suspended:
                crowding = self._crowding[variant]
                self._full_factors[variant] = self.slowdown * exp(crowding)
                self._factors[variant] = self.slowdown * exp(self._crowd * crowding)


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
