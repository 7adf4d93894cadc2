"""Discrete events around the production schedulers: a virtual clock, measured durations, no copy of any decision.

Each gateway has the `Scheduler` of every model and the `Workers` it books, both as they serve live, and is driven as
`serving.dispatcher` drives them: what happens at one moment is handled before anything is decided, the models are
asked in the order of their heads' deadlines until each waits, and timers are no shorter than the dispatcher's.

Modelled besides: one batch at a time a worker; several gateways in front of one pool of workers, each with workers of
its own or all sending to any (`simulation.pool.TwoChoices`); service times drawn from measurements, longer the more
workers are busy; the gateway's own time, one thing at a time in its event loop.

Not modelled: the time decisions take (it is measured, and told); a batch that runs slower because another starts
beside it; batches that are computed in the event loop itself; the order in which an overloaded event loop parses
(here: as they came), and its turning away unread requests; lost workers; callers who go away; connections.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtests.simulation.events import Simulation
from loadtests.simulation.records import Metrics, Records
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions, Fleet
from loadtests.workload import Call
from serving.core.policies.registry import NamedPolicy


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    records: Records
    served: tuple[Served, ...]
    kinds: tuple[str, ...]
    """Names of the classes, in the order of `Records.kind`."""
    ended_s: float
    """Virtual time when the last request ended."""
    busy_share: float
    """Mean share of the workers that were busy until then."""

    def metrics(self, *, since_s: float = 0.0, kind: str | None = None) -> Metrics:
        """See `Records.metrics`."""
        return self.records.metrics(self.served, since_s=since_s, kind=None if kind is None else self.kinds.index(kind))


def simulate(
    calls: Iterable[Call],
    served: Sequence[Served],
    fleet: Fleet,
    policy: NamedPolicy,
    *,
    seed: int = 1,
    assumptions: Assumptions | None = None,
) -> Result:
    """Run the calls, which come in the order of their times, until every one has ended.

    `seed` draws service times, gateways and routes: with the same seed another policy meets the same arrivals at the
    same gateways. Raises `SimulationError`, and `PolicyError` when the policy asks for a variant that is not there.
    """
    run = Simulation(served, fleet, policy, seed, assumptions or Assumptions())
    run.run(calls)
    worker_s = run.ended_s * fleet.total_workers
    return Result(
        records=run.records,
        served=tuple(served),
        kinds=tuple(run.kinds),
        ended_s=run.ended_s,
        busy_share=sum(run.records.batch_s) / worker_s if worker_s else 0.0,
    )
