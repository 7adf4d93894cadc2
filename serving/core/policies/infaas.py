"""INFaaS (Romero et al., ATC'21): the cheapest variant that meets the accuracy floor and, by a line, the latency."""

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.policies.batching import HeadFirst, dispatch, largest_batch, slack_of
from serving.core.request import Request
from serving.core.scheduler import Decision


class Infaas(HeadFirst):
    """Variants are looked through by cost, and the first that meets the constraints is taken.

    Latency is intercept + slope * rows, drawn through the smallest and the largest measured batch. Without a floor
    the answer is always the cheapest variant's, so `floor` is what this rule is tuned by: it holds for requests that
    allow a variant so accurate, besides what each asks for itself. Left out: scaling, and "loaded or not", for every
    variant is resident on every worker.
    """

    def __init__(
        self, variants: tuple[VariantView, ...], latency: LatencyModel, floor: float = 0.0, *, early_drop: bool = False
    ) -> None:
        """`floor`: least accuracy, 0..1."""
        super().__init__(variants, latency, early_drop=early_drop)
        self._floor = floor
        self._lines = [_line(variant) for variant in variants]

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        slack_s = slack_of(queue.head, now_s, fleet) / self._latency.slowdown
        variant = self._first_that_meets(queue.head, slack_s)
        intercept_s, slope_s = self._lines[variant]
        fitting = int((slack_s - intercept_s) / slope_s) if slope_s > 0 else queue.rows
        most = min(queue.rows, largest_batch(self._variants[variant]))
        return dispatch(queue, variant, min(max(1, fitting), most), self._latency)

    def _first_that_meets(self, head: Request, slack_s: float) -> int:
        accurate = [v for v in head.eligibility.variants if self._variants[v].accuracy >= self._floor]
        candidates = accurate or [head.eligibility.best]
        for variant in candidates:
            intercept_s, slope_s = self._lines[variant]
            if intercept_s + slope_s * head.rows <= slack_s:
                return variant
        return candidates[0]


def _line(variant: VariantView) -> tuple[float, float]:
    """Intercept and slope of the batch time, seconds and seconds a row."""
    most = largest_batch(variant)
    one_s = variant.table.seconds(1)
    slope_s = (variant.table.seconds(most) - one_s) / (most - 1) if most > 1 else one_s
    return one_s - slope_s, slope_s
