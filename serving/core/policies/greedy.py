"""The two greedy rules SlackFit is compared with in its paper (SuperServe, NSDI'25): most rows, or most accuracy."""

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot
from serving.core.policies.batching import HeadFirst, dispatch, fitting_rows, largest_batch, slack_of
from serving.core.scheduler import Decision


class MaxBatch(HeadFirst):
    """The most rows that any allowed variant can answer within the head's slack, then the most accurate of those."""

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        slack_s = slack_of(queue.head, now_s, fleet)
        best = (0, 0.0, 0)
        for variant in queue.head.eligibility.variants:
            most = min(queue.rows, largest_batch(self._variants[variant]))
            rows = fitting_rows(self._latency, variant, slack_s, most)
            if rows > 1 or self._latency.mean_s(variant, queue.head.rows) <= slack_s:
                best = max(best, (rows, self._variants[variant].accuracy, variant))
        rows, _, variant = best
        return dispatch(queue, variant if rows else queue.head.eligibility.variants[0], rows, self._latency)


class MaxAccuracy(HeadFirst):
    """The most accurate allowed variant that can answer the head in time, then as many rows as its slack allows."""

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        head = queue.head
        slack_s = slack_of(head, now_s, fleet)
        in_time = [v for v in head.eligibility.variants if self._latency.mean_s(v, head.rows) <= slack_s]
        variant = max(in_time or head.eligibility.variants[:1], key=lambda v: self._variants[v].accuracy)
        most = min(queue.rows, largest_batch(self._variants[variant]))
        return dispatch(queue, variant, fitting_rows(self._latency, variant, slack_s, most), self._latency)
