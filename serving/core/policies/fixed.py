"""One variant for everybody, batched well: what a good server of a single model does."""

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.policies.batching import dispatch, fitting_rows, settle, slack_of, stand_in, variant_named
from serving.core.request import Request
from serving.core.scheduler import Decision


class Fixed:
    """Earliest deadline first, early drop, and the largest batch up to the knee that the head's slack allows.

    The batch rule of Nexus (SOSP'19) with the knee of `LatencyTable.knee_rows`.
    """

    def __init__(self, variants: tuple[VariantView, ...], latency: LatencyModel, name: str) -> None:
        """`name` of the variant. Raises `PolicyError` for one that does not exist."""
        self._variants = variants
        self._latency = latency
        self._wanted = variant_named(variants, name)

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """See `Policy.decide`."""
        settled = settle(now_s, queue, fleet, self._latency, early_drop=True, answers=self._answers)
        if settled is not None:
            return settled
        variant = self._answers(queue.head)
        most = min(queue.rows, self._variants[variant].knee_rows)
        rows = fitting_rows(self._latency, variant, slack_of(queue.head, now_s, fleet), most)
        return dispatch(queue, variant, rows, self._latency)

    def _answers(self, request: Request) -> int:
        """The variant that answers the request."""
        return stand_in(request.eligibility, self._wanted, self._variants)
