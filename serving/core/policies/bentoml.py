"""BentoML's adaptive batching (its `CorkDispatcher`): a line through the last batches, waiting, and shedding."""

from collections import deque
from math import inf

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.policies.batching import OneVariant, dispatch, largest_batch
from serving.core.scheduler import Decision, Expire, Wait

KEPT = 50
"""Batches the line is drawn through."""
REFIT_S = 5.0
"""Seconds between two fits."""
TRAINED = 3
"""Batches before the first fit."""
WAIT_SHARE = 0.95
"""Share of the usual wait of the newest request that is waited for more."""
TICK_S = 0.001
"""Its polling interval; only its part in the formula is kept, decisions here come on events."""
FIRST_WAIT_S = 0.01


class BentoMl(OneVariant):
    """One variant; all that waits goes into a batch, after a wait learnt from the past.

    A batch of n requests is expected to take a * n + b. A head that has waited w is dropped when w + a * n + b passes
    its budget, with n all that is queued. The batch is never sized by a deadline. Left out: its training batches.
    """

    def __init__(
        self, variants: tuple[VariantView, ...], latency: LatencyModel, name: str, *, early_drop: bool = False
    ) -> None:
        """`name` of the variant. Raises `PolicyError` for one that does not exist."""
        super().__init__(variants, latency, name, early_drop=early_drop)
        self._batches: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self._waits_s: deque[float] = deque(maxlen=KEPT)
        self._fitted_s = -inf
        self._line: tuple[float, float] | None = None
        self._wait_s = FIRST_WAIT_S

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """See `Policy.decide`."""
        if not queue:
            return Wait()
        self._refit(now_s)
        slope_s, intercept_s = self._believed(fleet)
        head, count = queue.head, len(queue)
        expected_s = slope_s * count + intercept_s if count > 1 else 0.0
        shed_s = head.deadline_s - expected_s
        if now_s >= shed_s and (count > 1 or not fleet.idle):
            return Expire((head,))
        decision = super().decide(now_s, queue, fleet)
        return Wait(min(shed_s, decision.until_s)) if isinstance(decision, Wait) else decision

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        variant = self._answers(queue.head)
        most = largest_batch(self._variants[variant])
        newest_s = queue.requests[-1].arrival_s
        slope_s, _ = self._believed(fleet)
        go_s = newest_s + self._wait_s * WAIT_SHARE / len(queue) - TICK_S - slope_s
        if queue.rows < most and now_s < go_s:
            return Wait(go_s)
        self._waits_s.append(now_s - newest_s)
        return dispatch(queue, variant, most, self._latency)

    def observe(self, variant: int, rows: int, seconds: float) -> None:  # noqa: ARG002  # one line for all
        """See `Learner.observe`."""
        self._batches.append((rows, seconds))

    def _believed(self, fleet: FleetSnapshot) -> tuple[float, float]:
        """The line; before anything was measured, one of parts of the objective."""
        return self._line or (fleet.horizon_s * 2 / 30, fleet.horizon_s / 30)

    def _refit(self, now_s: float) -> None:
        if len(self._batches) < TRAINED or now_s - self._fitted_s < REFIT_S:
            return
        self._fitted_s = now_s
        self._line = least_squares(self._batches)
        self._wait_s = max(0.0, sum(self._waits_s) / len(self._waits_s))


def least_squares(points: deque[tuple[int, float]]) -> tuple[float, float]:
    """Slope (at least a microsecond) and intercept (at least 0) of the line through the points."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        # All of one size: the line of least length, as numpy's lstsq finds it.
        slope = mean_y * mean_x / (mean_x**2 + 1)
        return max(1e-6, slope), max(0.0, mean_y / (mean_x**2 + 1))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return max(1e-6, slope), max(0.0, mean_y - slope * mean_x)
