"""A bound on what any schedule reaches, tighter than the fluid one: batches of whole requests, and workers that slow
each other down.

The fluid bound (`loadtests.bound`) must take each batch at the least it can cost, as if every batch ran on a machine
that is otherwise idle. Why less is enough, for requests that are alike:

1. Say a batch has level k when it starts as the k-th busy worker. Order the batches that run at some moment by their
   starts: the j-th of them found the j - 1 before it running when it started, so its level is at least j. (They were
   running then, for they run still; where two start together, one counts the other.)
2. Take any weights w_1 >= w_2 >= ... >= w_W >= 0 that add up to the number W of workers. By 1, the weights of the
   levels of all batches that run at one moment add up to at most w_1 + ... + w_W = W. So the time of all batches, each
   counted w_level times, flows through one server of speed W, each inside its own window: the fluid relaxation holds
   with the price w_k l_vk(b) / b of a row instead of l_vk(b) / b, at the best level k and batch b.
3. Batches consist of whole requests of n rows each: only b that n divides need be looked at.

Every choice of weights gives a bound; the least of several is one. All weights 1 is the fluid bound at the cheapest
level, but for 3. Where a variant takes r times as long beside a neighbour, weights of 1 +- (r - 1)/(r + 1) price both
levels alike: one worker of two may always be the lucky one, and never both.
"""

import numpy as np

from loadtests.bound import BatchCost, Demand, upper_bound
from loadtests.clairvoyant.instance import TOLERANCE_S, Instance

TILTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
"""Weights tried: they fall in a straight line from 1 + tilt to 1 - tilt."""


def ceiling(instance: Instance) -> float:
    """No schedule of the instance earns more: accuracy times rows, summed."""
    tilts = TILTS if instance.workers > 1 else (0.0,)
    return min(_tilted(instance, tilt) for tilt in tilts)


def _tilted(instance: Instance, tilt: float) -> float:
    """The bound with the weights of that tilt."""
    workers = instance.workers
    weights = 1 + tilt * np.linspace(1, -1, workers) if workers > 1 else np.ones(1)
    # Divided by the largest weight no price is above the real one, so what fits its window also fits it priced.
    relative = weights / weights[0]
    price_s = instance.seconds * relative[None, :, None] / np.arange(1, instance.most + 1)
    price_s[instance.seconds > instance.budget_s + TOLERANCE_S] = np.inf
    costs = tuple(
        BatchCost(accuracy, (float(least_s),) * instance.rows)
        for accuracy, least_s in zip(instance.accuracies, price_s.min(axis=(1, 2)), strict=True)
        if np.isfinite(least_s)
    )
    from_s = min(instance.free_s)
    until_s = instance.handover_s[-1] + TOLERANCE_S if instance.handover_s else np.inf
    starts = np.maximum(instance.at_s, from_s)
    spans = np.minimum(instance.due_s, until_s) - starts
    demands = (
        Demand(at_s, span_s, instance.rows, costs)
        for at_s, span_s in zip(starts.tolist(), spans.tolist(), strict=True)
        if span_s > 0
    )
    return upper_bound(demands, workers / float(weights[0])).accuracy_sum
