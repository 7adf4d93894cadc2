"""A simulation in which gateways come and go: the production control law around the production schedulers.

Each gateway is a machine of its own with the workers of the fleet. One that is asked for is paid for at once, and
takes requests after `start_s`; one that leaves takes no more of them, and is paid for until it has ended what it has.
Requests are spread evenly over the gateways that take them: as with short connections, or long ones told to move.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

from loadtests.simulation.events import Simulation
from loadtests.simulation.gateway import Gateway, open_schedulers
from loadtests.simulation.pool import Booked, Host, Pool
from loadtests.simulation.records import Records
from loadtests.simulation.scalers import Scaler, Sight
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions, Fleet
from loadtests.workload import Call
from serving.core.autoscaling import ScalingRules
from serving.core.demand import DemandOptions, ReplicaSignals, together
from serving.core.policies.registry import NamedPolicy
from serving.core.workers import Workers

TICK_S = 1.0
"""How often signals are read and the scaler is asked."""
_TICK, _READY = 101, 102


@dataclass(frozen=True, slots=True)
class Scaling:
    """How gateways are added and taken away."""

    rules: ScalingRules
    start_s: float
    """From the wish for a gateway to its first request."""
    window_s: float
    """As `DemandOptions` has it."""


@dataclass(slots=True)
class Ledger:
    """What the gateways cost, second by second."""

    at_s: "array[float]"
    target: "array[int]"
    running: "array[int]"
    paid: "array[int]"
    """Gateways that were there in any state."""

    @property
    def replica_s(self) -> float:
        """Gateways times seconds."""
        return float(sum(self.paid)) * TICK_S

    @property
    def changes(self) -> int:
        """How often another number was asked for."""
        return sum(1 for before, after in zip(self.target, self.target[1:], strict=False) if before != after)


class ScalingSimulation(Simulation):
    """One run with a scaler. Make it, and `run` it once."""

    def __init__(
        self,
        served: Sequence[Served],
        fleet: Fleet,
        policy: NamedPolicy,
        seed: int,
        assumptions: Assumptions,
        scaling: Scaling,
        scaler: Scaler,
    ) -> None:
        super().__init__(served, fleet, policy, seed, assumptions)
        self._policy = policy
        self._assumptions = assumptions
        self._scaling = scaling
        self._scaler = scaler
        self._gateways.clear()
        self._open: list[Gateway] = []
        self._starting: list[Gateway] = []
        self._leaving: list[Gateway] = []
        self._target = 0
        self._busy: dict[Gateway, float] = {}
        """Mean number of busy workers of each gateway, over about the window."""
        self.ledger = Ledger(array("d"), array("i"), array("i"), array("i"))
        self._last_s = 0.0
        for _ in range(fleet.gateways):
            self._ready(self._add())

    def run(self, calls: Iterable[Call]) -> None:
        """See `Simulation.run`."""
        asked = list(calls)
        self._last_s = asked[-1].at_s if asked else 0.0
        self._at(0.0, _TICK, None)
        super().run(asked)

    def _handle(self, what: int, subject: Any) -> None:
        if what == _TICK:
            self._tick()
        elif what == _READY:
            self._starting.remove(subject)
            self._ready(subject)
        else:
            super()._handle(what, subject)

    def _add(self) -> Gateway:
        demand = DemandOptions(self._scaling.window_s, self._scaling.rules.targets.max_accuracy_forgone)
        gateway = Gateway(
            len(self._gateways),
            open_schedulers(self._served, self._policy, self._assumptions, demand),
            Workers(self._fleet.workers),
            Pool(self._fleet.workers, Host()),
            Booked(range(self._fleet.workers)),
            [self._fleet.weights.get(family.name, 1.0) for family in self._served],
        )
        self._gateways.append(gateway)
        self._target += 1
        return gateway

    def _ready(self, gateway: Gateway) -> None:
        self._open.append(gateway)
        self._busy[gateway] = 0.0

    def _tick(self) -> None:
        now_s = self._now_s
        self._leaving = [gateway for gateway in self._leaving if not _is_idle(gateway)]
        signals = together([self._signals(gateway) for gateway in self._open])
        ongoing = float(sum(_ongoing(gateway) for gateway in self._open))
        sight = Sight(signals, ongoing, running=len(self._open), target=self._target)
        wanted = max(1, self._scaler.decide(now_s, sight))
        while self._target < wanted:
            gateway = self._add()
            self._starting.append(gateway)
            self._at(now_s + self._scaling.start_s, _READY, gateway)
        while self._target > wanted and len(self._open) > 1:
            self._target -= 1
            self._leaving.append(self._open.pop())
        self.ledger.at_s.append(now_s)
        self.ledger.target.append(self._target)
        self.ledger.running.append(len(self._open))
        self.ledger.paid.append(len(self._open) + len(self._starting) + len(self._leaving))
        if now_s + TICK_S <= self._last_s:
            self._at(now_s + TICK_S, _TICK, None)

    def _signals(self, gateway: Gateway) -> ReplicaSignals:
        workers = len(gateway.workers)
        busy = self._busy[gateway]
        # Looked at once a second: over the window and all gateways that is as good as their whole time.
        busy += (1 - exp(-TICK_S / self._scaling.window_s)) * (gateway.workers.busy - busy)
        self._busy[gateway] = busy
        models = {
            family.name: scheduler.signals(self._now_s, workers)
            for family, scheduler in zip(self._served, gateway.schedulers, strict=True)
        }
        return ReplicaSignals(workers, busy, models)


@dataclass(frozen=True, slots=True)
class Scaled:
    """A finished run."""

    records: Records
    ledger: Ledger


def simulate_scaling(
    calls: Iterable[Call],
    served: Sequence[Served],
    fleet: Fleet,
    policy: NamedPolicy,
    *,
    scaling: Scaling,
    scaler: Scaler,
    seed: int = 1,
    assumptions: Assumptions | None = None,
) -> Scaled:
    """Run the calls with a scaler that is asked once a second; `fleet` is what there is at the start.

    Raises what `loadtests.simulator.simulate` raises.
    """
    run = ScalingSimulation(served, fleet, policy, seed, assumptions or Assumptions(), scaling, scaler)
    run.run(calls)
    return Scaled(run.records, run.ledger)


def _ongoing(gateway: Gateway) -> int:
    running = sum(len(batch.requests) for queue in gateway.pool.waiting for batch in queue)
    return running + sum(len(scheduler.queue) for scheduler in gateway.schedulers)


def _is_idle(gateway: Gateway) -> bool:
    return not (gateway.workers.in_flight or any(scheduler.queue for scheduler in gateway.schedulers))
