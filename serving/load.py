"""How loaded this process is, in the numbers an autoscaler goes by."""

import time
from collections.abc import Mapping
from math import exp

from serving.core.demand import ReplicaSignals, sum_of, together
from serving.dispatcher import Dispatcher
from serving.gateway import Gateway
from serving.ports import Clock

SILENT_S = 5.0
"""A gateway that has told a worker nothing for so long is gone."""


class LoadMeter:
    """Reads what the lanes and the dispatcher have counted. One owner reads it, about once a second."""

    def __init__(self, gateway: Gateway, dispatcher: Dispatcher, window_s: float, clock: Clock) -> None:
        self._gateway = gateway
        self._dispatcher = dispatcher
        self._window_s = window_s
        self._clock = clock
        self._at_s = clock()
        self._busy_s = dispatcher.busy_s
        self._busy = 0.0
        self.latest: ReplicaSignals | None = None
        """The last reading; None before the first."""

    def read(self) -> ReplicaSignals:
        """The signals now. Several versions of a model count together."""
        now_s, workers = self._clock(), len(self._dispatcher.workers)
        elapsed_s = now_s - self._at_s
        if elapsed_s > 0:
            busy = (self._dispatcher.busy_s - self._busy_s) / elapsed_s
            self._busy += (1 - exp(-elapsed_s / self._window_s)) * (busy - self._busy)
            self._at_s, self._busy_s = now_s, self._dispatcher.busy_s
        models = {
            name: sum_of([lane.read_signals(now_s, workers) for lane in versions.values()])
            for name, versions in self._gateway.lanes.items()
        }
        self.latest = ReplicaSignals(workers, min(self._busy, workers), models)
        return self.latest


class WorkerLoad:
    """What one worker knows of the load: its own, and what the gateways said last."""

    def __init__(self, window_s: float, clock: Clock = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._told: dict[str, tuple[float, ReplicaSignals]] = {}
        self._at_s = clock()
        self._busy = 0.0
        self.busy_s = 0.0
        """Time spent on batches. Add to it."""

    def hear(self, gateway: str, numbers: Mapping[str, float]) -> tuple[int, int]:
        """What a gateway is asked for; returns its place among the gateways, and how many there are.

        The place goes by the names: every worker that hears of the same gateways tells the same.
        """
        self._told[gateway] = self._clock(), ReplicaSignals.read(numbers)
        gateways = len(self._living())
        return sorted(self._told).index(gateway), gateways

    def stats(self) -> dict[str, float]:
        """For the autoscaler: one worker, and what all gateways are asked for."""
        now_s = self._clock()
        elapsed_s = now_s - self._at_s
        if elapsed_s > 0:
            self._busy += (1 - exp(-elapsed_s / self._window_s)) * (self.busy_s / elapsed_s - self._busy)
            self._at_s, self.busy_s = now_s, 0.0
        models = together(self._living()).models
        return ReplicaSignals(1.0, min(1.0, self._busy), models).flat() | {"relayed": 1.0}

    def _living(self) -> list[ReplicaSignals]:
        now_s = self._clock()
        self._told = {name: told for name, told in self._told.items() if now_s - told[0] <= SILENT_S}
        return [signals for _, signals in self._told.values()]
