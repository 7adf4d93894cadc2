"""A policy's run with the batches it formed: what the records of a simulation do not tell."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.clairvoyant.schedule import Planned
from loadtests.simulation.records import CODE, Records
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions, Fleet
from loadtests.simulator import simulate
from loadtests.workload import Call
from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.outcome import Outcome
from serving.core.policies.registry import NamedPolicy
from serving.core.scheduler import Decision, Dispatch, Policy


@dataclass(frozen=True, slots=True)
class Watched:
    """One run."""

    records: Records
    batches: tuple[Planned, ...]
    """In the order of their starts; variants by their place in the family."""

    def earned(self, served: Served, begin: int, end: int) -> float:
        """Accuracy times rows of the requests from `begin` up to `end` that were answered in time."""
        records, met = self.records, CODE[Outcome.MET]
        return sum(
            served.variants[records.variant[at]].accuracy * records.rows[at]
            for at in range(begin, end)
            if records.outcome[at] == met
        )


def watch(
    calls: Sequence[Call], served: Served, fleet: Fleet, policy: NamedPolicy, seed: int, assumptions: Assumptions
) -> Watched:
    """Simulate one gateway with one family under the policy. Raises what `simulate` raises."""
    batches: list[Planned] = []

    def make(views: tuple[VariantView, ...], latency: LatencyModel) -> Policy:
        return _Noting(policy.make(views, latency), batches)

    named = NamedPolicy(policy.name, make, policy.admission)
    result = simulate(calls, [served], fleet, named, seed=seed, assumptions=assumptions)
    return Watched(result.records, tuple(batches))


class _Noting:
    """Asks another policy, and notes what it dispatches."""

    def __init__(self, policy: Policy, batches: list[Planned]) -> None:
        self._policy = policy
        self._batches = batches

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        """See `Policy.decide`."""
        decision = self._policy.decide(now_s, queue, fleet)
        if isinstance(decision, Dispatch):
            members = tuple(request.payload for request in decision.requests)
            self._batches.append(Planned(members, decision.variant, now_s))
        return decision
