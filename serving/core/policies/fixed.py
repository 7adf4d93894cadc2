"""One variant for everybody, batched well: what a good server of a single model does."""

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.policies.batching import OneVariant, dispatch, fitting_rows, slack_of
from serving.core.scheduler import Decision


class Fixed(OneVariant):
    """Earliest deadline first, early drop, and the largest batch up to the knee that the head's slack allows.

    The batch rule of Nexus (SOSP'19) with the knee of `LatencyTable.knee_rows`.
    """

    def __init__(self, variants: tuple[VariantView, ...], latency: LatencyModel, name: str) -> None:
        """`name` of the variant. Raises `PolicyError` for one that does not exist."""
        super().__init__(variants, latency, name, early_drop=True)

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        variant = self._answers(queue.head)
        most = min(queue.rows, self._variants[variant].knee_rows)
        rows = fitting_rows(self._latency, variant, slack_of(queue.head, now_s, fleet), most)
        return dispatch(queue, variant, rows, self._latency)
