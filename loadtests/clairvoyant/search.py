"""The best schedule that can be found when everything is known: label setting over requests, with a beam.

A label says: these requests are decided, the workers are free then, so much is earned. From a label the next batch
takes the next requests, on every variant and in every useful size, on the worker that is free first, as soon as it is
free and the last member is there; or the next request is given up. Of the labels of one request those are kept that
have earned more than every other that has used no more worker time. If they are more than the beam is wide, the range
of worker time is cut into as many pieces, and of each the label stays that is best at the going rate of accuracy
for worker time. Further rounds look only near the best schedule so far, with the pieces as much finer.

What is found is feasible whatever the beam drops: a lower bound on what foresight can reach. It is the optimum for one
worker and a beam that drops nothing: there batches follow one another, so members that are served out of the order of
their arrival can change places (the earlier batch ends before the later one, hence before either deadline), and no
batch gains by starting later. With several workers a schedule may win by two things that are not tried: a request that
waits for a shorter batch than the one that later arrivals started in, and a start put off until a neighbour rests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from loadtests.clairvoyant.instance import TOLERANCE_S, Instance, useful_sizes
from loadtests.clairvoyant.schedule import Planned, accuracy_sum, free_after

BEAM = 64
"""Labels kept of each request, unless told otherwise."""

NARROWER = (1 / 8, 1 / 40)
"""Half the width of the corridor around the best schedule so far, round by round, as a share of all worker time that
the budget holds."""

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Corridor = tuple[Floats, Floats]
"""Least and most worker time used when each request is next."""


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """Labels of one request, in columns."""

    free_s: Floats
    """(labels, workers), earliest first."""
    earned: Floats
    parent: Places
    """Where in the history the label comes from."""
    choice: Places
    """Which batch was added: a place in the options; -1: the request was given up."""
    start_s: Floats

    def __len__(self) -> int:
        return len(self.earned)

    def only(self, places: Places | NDArray[np.bool_]) -> "_Labels":
        """Some of them."""
        return _Labels(
            self.free_s[places], self.earned[places], self.parent[places], self.choice[places], self.start_s[places]
        )

    @property
    def columns(self) -> tuple[Floats, Floats, Places, Places, Floats]:
        return self.free_s, self.earned, self.parent, self.choice, self.start_s

    @classmethod
    def joined(cls, parts: Sequence["_Labels"]) -> "_Labels":
        """All of them."""
        return cls(*(np.concatenate(columns) for columns in zip(*(part.columns for part in parts), strict=True)))


def best_schedule(instance: Instance, beam: int = BEAM, known: Sequence[Planned] | None = None) -> list[Planned]:
    """The batches of the best schedule found, in the order of their starts.

    `known` is a schedule to begin with, in the order of arrival; where workers must be handed over there has to be one.
    What is found is no worse. Raises `ScheduleError` when it is not feasible.
    """
    best = list(known or ())
    earned = accuracy_sum(instance, best)
    widest_s = instance.workers * instance.budget_s
    shares: tuple[float | None, ...] = NARROWER if known else (None, *NARROWER)
    for share in shares:
        corridor = None if share is None else _along(instance, best, widest_s * share)
        found = _Search(instance, beam, corridor).run()
        if found is not None and (value := accuracy_sum(instance, found)) > earned:
            best, earned = found, value
    return best


def _along(instance: Instance, schedule: Sequence[Planned], half_s: float) -> Corridor:
    """The corridor around the worker time that a schedule has used when each request is next."""
    running: Sequence[float] = sorted(instance.free_s)
    requests, used_s = [0], [_used_s(running, instance.at_s[0])]
    for batch in schedule:
        running = free_after(replace(instance, free_s=tuple(running)), [batch])
        requests.append(max(batch.members) + 1)
        used_s.append(_used_s(running, instance.at_s[min(requests[-1], len(instance.at_s) - 1)]))
    middle_s = np.interp(np.arange(len(instance.at_s)), requests, used_s)
    return middle_s - half_s, middle_s + half_s


def _used_s(free_s: Sequence[float], now_s: float) -> float:
    return sum(max(until_s, now_s) for until_s in free_s)


def _is_useful(instance: Instance, variant: int, size: int) -> bool:
    """Whether such a batch can meet the budget, and no better variant is as quick with it."""
    took_s = instance.seconds[variant, :, size - 1]
    accuracy = instance.accuracies[variant]
    return bool(took_s.min() <= instance.budget_s + TOLERANCE_S) and not any(
        (instance.seconds[other, :, size - 1] <= took_s).all()
        and (better > accuracy or (better == accuracy and other < variant))
        for other, better in enumerate(instance.accuracies)
        if other != variant
    )


class _Search:
    """One round."""

    def __init__(self, instance: Instance, beam: int, corridor: Corridor | None) -> None:
        self._instance = instance
        self._beam = beam
        self._corridor = corridor
        variants = range(len(instance.accuracies))
        pairs = [pair for pair in product(variants, useful_sizes(instance.most)) if _is_useful(instance, *pair)]
        self._variant = np.array([variant for variant, _ in pairs], dtype=np.int64)
        self._size = np.array([size for _, size in pairs], dtype=np.int64)
        self._worth = np.array(instance.accuracies)[self._variant] * self._size * instance.rows
        self._seconds = instance.seconds[self._variant, :, self._size - 1]
        """(options, busy workers - 1)."""
        self._due_s = instance.due_s
        self._latest_s = instance.handover_s[-1] if instance.handover_s else np.inf
        start = np.sort(np.array(instance.free_s, dtype=float))[None, :]
        none = np.array([-1])
        self._open: dict[int, list[_Labels]] = {0: [_Labels(start, np.zeros(1), none, none, np.zeros(1))]}
        """Labels by the first request that is not decided."""
        self._history: list[_Labels] = []
        self._begins: list[int] = []
        """Place of each request's first label in the history."""
        self._length = 0

    def run(self) -> list[Planned] | None:
        """The best schedule of this round; None when workers must be handed over and no label that is left can."""
        for request in range(len(self._instance.at_s)):
            self._step(request)
        return self._schedule()

    def _step(self, request: int) -> None:
        """Go on from all labels of that request."""
        labels = self._kept(request)
        begin = self._remember(labels)
        numbers = np.arange(begin, begin + len(labels))
        nothing = np.full(len(labels), -1)
        self._put(request + 1, _Labels(labels.free_s, labels.earned, numbers, nothing, np.zeros(len(labels))))

        at_s = self._instance.at_s
        options = np.flatnonzero(self._size <= len(at_s) - request)
        last_s = at_s[request + self._size[options] - 1]
        start_s = np.maximum(labels.free_s[:, :1], last_s[None, :])
        busy = (labels.free_s[:, None, :] > start_s[:, :, None]).sum(axis=2)
        end_s = start_s + self._seconds[options[None, :], busy]
        latest_s = min(self._due_s[request], self._latest_s) + TOLERANCE_S
        label, option = np.nonzero(end_s <= latest_s)
        if not len(label):
            return
        free_s = labels.free_s[label]
        free_s[:, 0] = end_s[label, option]
        free_s.sort(axis=1)
        chosen = options[option]
        added = _Labels(
            free_s, labels.earned[label] + self._worth[chosen], numbers[label], chosen, start_s[label, option]
        )
        sizes = self._size[chosen]
        for size in np.unique(sizes).tolist():
            self._put(request + size, added.only(sizes == size))

    def _schedule(self) -> list[Planned] | None:
        """The batches that led to the best label at the end."""
        instance = self._instance
        labels = _Labels.joined(self._open[len(instance.at_s)])
        if instance.handover_s is not None:
            wanted = np.array(instance.handover_s) + TOLERANCE_S
            labels = labels.only(np.all(labels.free_s <= wanted, axis=1))
        if not len(labels):
            return None
        best = int(np.argmax(labels.earned))
        request, number = len(instance.at_s), int(labels.parent[best])
        choice, start_s = int(labels.choice[best]), float(labels.start_s[best])
        found = []
        while number >= 0:
            if choice >= 0:
                size = int(self._size[choice])
                request -= size
                found.append(Planned(range(request, request + size), int(self._variant[choice]), start_s))
            else:
                request -= 1
            at = number - self._begins[request]
            labels = self._history[request]
            number, choice, start_s = int(labels.parent[at]), int(labels.choice[at]), float(labels.start_s[at])
        return found[::-1]

    def _put(self, request: int, labels: _Labels) -> None:
        self._open.setdefault(request, []).append(labels)

    def _remember(self, labels: _Labels) -> int:
        begin = self._length
        self._begins.append(begin)
        self._history.append(labels)
        self._length += len(labels)
        return begin

    def _kept(self, request: int) -> _Labels:
        """The labels of that request that are gone on from. A worker that idles is as good as one free just now."""
        labels = _Labels.joined(self._open.pop(request))
        used_s = np.maximum(labels.free_s, self._instance.at_s[request]).sum(axis=1)
        if self._corridor is not None:
            low_s, high_s = (side[request] for side in self._corridor)
            inside = (used_s >= low_s) & (used_s <= high_s)
            if inside.any():
                labels, used_s = labels.only(inside), used_s[inside]
        order = np.lexsort((-labels.earned, used_s))
        earned, used_s = labels.earned[order], used_s[order]
        before = np.concatenate(([-np.inf], np.maximum.accumulate(earned)[:-1]))
        better = earned > before
        order, earned, used_s = order[better], earned[better], used_s[better]
        if len(order) > self._beam:
            rate = (earned[-1] - earned[0]) / (used_s[-1] - used_s[0])
            piece = np.minimum((used_s - used_s[0]) / (used_s[-1] - used_s[0]) * self._beam, self._beam - 1).astype(int)
            # Sorted by piece, the best of each last: the last place of each piece stays.
            ranked = np.lexsort((earned - rate * used_s, piece))
            last = np.concatenate((piece[ranked][1:] != piece[ranked][:-1], [True]))
            order = np.sort(order[ranked[last]])
        return labels.only(order)
