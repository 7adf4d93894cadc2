"""How loaded this process is, in the numbers an autoscaler goes by."""

from math import exp

from serving.core.demand import ReplicaSignals, sum_of
from serving.dispatcher import Dispatcher
from serving.gateway import Gateway
from serving.ports import Clock


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
