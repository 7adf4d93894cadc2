"""SlackFit (SuperServe, Khare et al., NSDI'25): buckets of latency over (variant, batch), entered by the slack."""

from bisect import bisect_right
from math import inf

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.policies.batching import HeadFirst, dispatch, largest_batch, slack_of
from serving.core.scheduler import Decision

BUCKETS = 32
"""Evenly spaced between the quickest and the slowest tuple. The paper leaves the number open."""

_Tuple = tuple[float, int, int]
"""Seconds, rows, variant."""
_Table = tuple[list[float], list[tuple[int, int]]]
"""Slacks from which on (variant, rows) is the choice, rising."""


class SlackFit(HeadFirst):
    """The highest bucket that lies wholly below the head's slack, and in it the tuple with the largest batch.

    Offline, the time between the quickest and the slowest (variant, batch) is cut into even buckets; dominated tuples
    are left out. As published the batch is chosen without looking at the queue, so that a short queue is served by a
    variant chosen for a batch that is not there. `within_queue` allows only batches that can be filled.
    """

    def __init__(
        self,
        variants: tuple[VariantView, ...],
        latency: LatencyModel,
        *,
        within_queue: bool = False,
        early_drop: bool = False,
    ) -> None:
        super().__init__(variants, latency, early_drop=early_drop)
        self._within_queue = within_queue
        tuples = [(v.table.seconds(rows), rows, v.index) for v in variants for rows in _sizes(largest_batch(v))]
        self._tuples = tuples
        self._low_s = min(seconds for seconds, _, _ in tuples)
        self._width_s = max((max(seconds for seconds, _, _ in tuples) - self._low_s) / BUCKETS, 1e-9)
        self._tables: dict[tuple[tuple[int, ...], int], _Table] = {}

    def _batch(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        slack_s = slack_of(queue.head, now_s, fleet) / self._latency.slowdown
        # Sizes double, so the cap matters by its power of two only: few tables cover all queues.
        cap = 1 << (queue.rows.bit_length() - 1) if self._within_queue else 0
        slacks, choices = self._table(queue.head.eligibility.variants, cap)
        variant, rows = choices[max(0, bisect_right(slacks, slack_s) - 1)]
        return dispatch(queue, variant, rows, self._latency)

    def _table(self, allowed: tuple[int, ...], cap: int) -> _Table:
        known = self._tables.get((allowed, cap))
        if known is None:
            tuples = [t for t in self._tuples if t[2] in allowed and (not cap or t[1] <= cap)]
            known = self._tables[allowed, cap] = self._bucketed(self._pareto(tuples))
        return known

    def _pareto(self, tuples: list[_Tuple]) -> list[_Tuple]:
        """Without those that another, no slower, beats in accuracy and rows."""
        kept = []
        for seconds, rows, variant in tuples:
            accuracy = self._variants[variant].accuracy
            beaten = any(
                s <= seconds
                and r >= rows
                and self._variants[v].accuracy >= accuracy
                and (s, -r, -self._variants[v].accuracy, v) < (seconds, -rows, -accuracy, variant)
                for s, r, v in tuples
            )
            if not beaten:
                kept.append((seconds, rows, variant))
        return kept

    def _bucketed(self, tuples: list[_Tuple]) -> _Table:
        """The choice of each bucket; below the first, the quickest tuple, then the largest batch that fits."""
        in_first: list[_Tuple] = []
        best: dict[int, _Tuple] = {}
        for candidate in sorted(tuples):
            bucket = min(int((candidate[0] - self._low_s) / self._width_s), BUCKETS - 1)
            if bucket == 0:
                in_first.append(candidate)
            held = best.get(bucket)
            if held is None or self._worth(candidate) > self._worth(held):
                best[bucket] = candidate
        steps: dict[float, _Tuple] = {-inf: min(tuples)}
        for count, candidate in enumerate(in_first, 1):
            # A slack inside the first bucket has no bucket below it: here the tuples themselves have to do.
            steps[candidate[0]] = max(in_first[:count], key=self._worth)
        for bucket, candidate in best.items():
            steps[self._low_s + (bucket + 1) * self._width_s] = candidate
        slacks = sorted(steps)
        return slacks, [(steps[slack][2], steps[slack][1]) for slack in slacks]

    def _worth(self, candidate: _Tuple) -> tuple[int, float]:
        return candidate[1], self._variants[candidate[2]].accuracy


def _sizes(most: int) -> list[int]:
    """1, 2, 4, ... up to and including `most`."""
    return [*(size for size in (1 << power for power in range(most.bit_length())) if size < most), most]
