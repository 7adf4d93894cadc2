"""Clipper (Crankshaw et al., NSDI'17): the batch grows by a step until it takes too long, then shrinks by 10 %."""

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.policies.batching import OneVariant, dispatch, fitting_rows, largest_batch, slack_of
from serving.core.scheduler import Decision

STEP_ROWS = 1.0
"""Added after a full batch that met the objective. The paper says "a fixed amount" and gives no figure."""
BACKOFF = 0.9
"""The limit is multiplied by this when a batch passes the objective (section 4.3.1: "by 10 %")."""


class Clipper(OneVariant):
    """Additive increase, multiplicative decrease of the batch of one variant.

    The objective a batch's time is held against is the usual latency budget (`FleetSnapshot.horizon_s`). As in the
    published code, though not in the paper, a batch is also cut to what the head's slack allows.
    """

    def __init__(
        self, variants: tuple[VariantView, ...], latency: LatencyModel, name: str, *, early_drop: bool = False
    ) -> None:
        """`name` of the variant. Raises `PolicyError` for one that does not exist."""
        super().__init__(variants, latency, name, early_drop=early_drop)
        self._objective_s = 0.0
        self.limit_rows = [1.0] * len(variants)
        """Largest batch of each variant as learnt so far, rows."""

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """See `Policy.decide`."""
        self._objective_s = fleet.horizon_s
        return super().decide(now_s, queue, fleet)

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        variant = self._answers(queue.head)
        most = min(queue.rows, int(self.limit_rows[variant]))
        rows = fitting_rows(self._latency, variant, slack_of(queue.head, now_s, fleet), most)
        return dispatch(queue, variant, rows, self._latency)

    def observe(self, variant: int, rows: int, seconds: float) -> None:
        """See `Learner.observe`."""
        limit = self.limit_rows[variant]
        if seconds > self._objective_s:
            self.limit_rows[variant] = max(1.0, limit * BACKOFF)
        elif rows >= int(limit):
            self.limit_rows[variant] = min(limit + STEP_ROWS, float(largest_batch(self._variants[variant])))
