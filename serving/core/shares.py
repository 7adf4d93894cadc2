"""How much of a pool of workers each of several models may count on, and who goes first.

What a model *needs* is the worker time of its requests on their cheapest variants. A model may count on what the others
do not need, and at least on its part by weight: so one that bursts takes what is free and no more, and starves nobody.
What is spent on accuracy beyond the need comes out of what nobody needs: a model shifts down before another refuses.
(Weighted max-min fairness, as in Demers, Keshav and Shenker, "Analysis and Simulation of a Fair Queueing Algorithm",
1989; of needs over a sliding window, because batches are long and deadlines, not packets, are to be kept.)
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil, exp
from typing import Generic, TypeVar

ModelT = TypeVar("ModelT", bound=Hashable)

WINDOW_S = 0.5
"""Time constant of what a model needs and uses, seconds."""
IDLE = 0.001
"""A model that needs less of the pool than this has no part in it."""


@dataclass(slots=True)
class _Use:
    weight: float
    need: float = 0.0
    """Of the pool's time, what its requests take on their cheapest variants. Fades."""
    used: float = 0.0
    """Of the pool's time, what its batches took. Fades."""
    at_s: float = 0.0


class Shares(Generic[ModelT]):
    """The models of one pool. Pure: times are passed in."""

    def __init__(self) -> None:
        self._uses: dict[ModelT, _Use] = {}

    def add(self, model: ModelT, weight: float = 1.0) -> None:
        """One model more; `weight` > 0, relative to the others'."""
        self._uses[model] = _Use(weight)

    def remove(self, model: ModelT) -> None:
        """This model uses the pool no longer."""
        del self._uses[model]

    def asked(self, model: ModelT, worker_s: float, workers: int, now_s: float) -> None:
        """A request arrives, admitted or not, that takes a worker for `worker_s` on its cheapest variant."""
        if len(self._uses) > 1:
            self._faded(model, now_s).need += worker_s / workers / WINDOW_S

    def charge(self, model: ModelT, worker_s: float, workers: int, now_s: float) -> None:
        """A batch of the model starts that takes a worker for `worker_s`."""
        if len(self._uses) > 1:
            self._faded(model, now_s).used += worker_s / workers / WINDOW_S

    def of(self, model: ModelT, now_s: float) -> tuple[float, float]:
        """Shares of the pool's time, 0..1: what the model may count on to keep its promises, and what it may spend on
        accuracy too.
        """
        if len(self._uses) == 1:
            return 1.0, 1.0
        own, others, fair = self._parties(model, now_s)
        left = max(0.0, 1.0 - others)
        return max(fair, left), max(min(fair, own.need), left)

    def counted(
        self, model: ModelT, now_s: float, free_at_s: Sequence[float], *, contended: bool
    ) -> tuple[Sequence[float], float]:
        """The workers the model may count on, those that are free first, and the share of *their* time it may spend.

        `free_at_s` as in `FleetSnapshot`: the first is the one to get the next batch. `contended`: another model has
        requests waiting. While none has, nobody lacks what is spent, whatever was needed a moment ago.
        """
        if len(self._uses) == 1:
            return free_at_s, 1.0
        promised, spent = self.of(model, now_s)
        total = len(free_at_s)
        count = max(1, ceil(promised * total - 1e-9))
        kept = free_at_s if count == total else (free_at_s[0], *sorted(free_at_s[1:])[: count - 1])
        return kept, min(1.0, spent * total / count) if contended else 1.0

    def order(self, waiting: Sequence[tuple[float, ModelT]], now_s: float) -> list[ModelT]:
        """The models that have requests waiting, given with their earliest deadlines, in the order to serve them.

        By deadline; but who used more than it may count on lets the others go first.
        """
        if len(waiting) == 1:
            return [waiting[0][1]]
        ranked = []
        for place, (deadline_s, model) in enumerate(waiting):
            promised, _ = self.of(model, now_s)
            ranked.append((self._uses[model].used > promised, deadline_s, place))
        return [waiting[place][1] for _, _, place in sorted(ranked)]

    def _parties(self, model: ModelT, now_s: float) -> tuple[_Use, float, float]:
        """The model's own account, what the others need, and its part by weight among all that need something."""
        own = self._faded(model, now_s)
        weights, others = own.weight, 0.0
        for name in self._uses:
            if name != model and (use := self._faded(name, now_s)).need > IDLE:
                weights += use.weight
                others += use.need
        return own, others, own.weight / weights

    def _faded(self, model: ModelT, now_s: float) -> _Use:
        use = self._uses[model]
        if now_s > use.at_s:
            kept = exp((use.at_s - now_s) / WINDOW_S)
            use.need *= kept
            use.used *= kept
            use.at_s = now_s
        return use
