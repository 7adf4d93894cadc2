"""Look-ahead, a schedule that knows the future, and the bounds, on the same requests of a load.

Each load is asked twice:

- *free ends*, as a study scores a policy: the requests that arrive after the warm-up. The clairvoyant begins with idle
  workers and an empty queue and knows that nothing comes after the last request; a policy has the queue of the warm-up
  and knows of no end.
- *same ends*: cut out of look-ahead's own run from the start of one batch to the end of another. The clairvoyant takes
  the workers when look-ahead got them, serves the same requests, and hands the workers over no later. What is left
  between the two is what choosing otherwise in between would have brought, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from loadtests.clairvoyant.ceiling import ceiling
from loadtests.clairvoyant.instance import Instance, instance_of
from loadtests.clairvoyant.schedule import Planned, accuracy_sum, free_after
from loadtests.clairvoyant.search import best_schedule
from loadtests.clairvoyant.watched import Watched, watch
from loadtests.simulation.served import Served
from loadtests.studies.lineup import SMALLEST
from loadtests.study import Task, capacities, fleet_of, run_task
from loadtests.workload import calls
from serving.core.policies.registry import LOOK_AHEAD, named_policy


class StudyError(ValueError):
    """A load that cannot be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Rungs:
    """Effective accuracy over the same requests, from the smallest variant up to the bounds."""

    requests: int
    smallest: float
    look_ahead: float
    clairvoyant: float
    """The best schedule found."""
    ceiling: float
    """No schedule passes it."""
    fluid: float | None
    """The bound that headroom is counted to everywhere else; None for a cut, of which it was never taken."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One load with one seed."""

    cell: str
    seed: int
    free_ends: Rungs
    same_ends: Rungs

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compare(task: Task, beam: int) -> Compared:
    """Run one load without service noise. Raises `NotAlikeError`, `StudyError`, and what `run_task` raises."""
    scenario, served = task.cell.scenario, task.served[0]
    fleet = fleet_of(scenario)
    if fleet.gateways > 1 or fleet.split or len(task.served) > 1:
        raise StudyError(f"'{task.cell.name}': a clairvoyant schedule is made for one gateway with workers of its own")
    asked = list(calls(scenario, capacities(task.served, scenario, task.assumptions.batch_overhead_s), task.seed))
    instance = instance_of(asked, served, fleet.total_workers)
    scored = run_task(replace(task, policies=(LOOK_AHEAD,)))
    begin = next(at for at, call in enumerate(asked) if call.at_s >= scored.since_s)
    runs = Runs(
        served,
        *(
            watch(asked, served, fleet, named_policy(name), task.seed, task.assumptions)
            for name in (LOOK_AHEAD, SMALLEST)
        ),
    )
    counted = instance.part(begin, len(asked), (asked[begin].at_s,) * instance.workers)
    free_ends = runs.rungs(counted, begin, best_schedule(counted, beam), scored.upper_bound)
    cut, first, own = cut_out(instance, runs.look_ahead.batches, begin)
    same_ends = runs.rungs(cut, first, best_schedule(cut, beam, own))
    return Compared(task.cell.name, task.seed, free_ends, same_ends)


@dataclass(frozen=True, slots=True)
class Runs:
    """Both policies on all requests of a load."""

    served: Served
    look_ahead: Watched
    smallest: Watched

    def rungs(self, part: Instance, first: int, schedule: Sequence[Planned], fluid: float | None = None) -> Rungs:
        """What everybody reaches on the requests of `part`, which begin with number `first` of the load."""
        requests = len(part.at_s)
        rows = requests * part.rows
        mine, least = (run.earned(self.served, first, first + requests) for run in (self.look_ahead, self.smallest))
        return Rungs(
            requests=requests,
            smallest=least / rows,
            look_ahead=mine / rows,
            clairvoyant=accuracy_sum(part, schedule) / rows,
            ceiling=ceiling(part) / rows,
            fluid=fluid,
        )


def cut_out(instance: Instance, batches: Sequence[Planned], begin: int) -> tuple[Instance, int, list[Planned]]:
    """The part of a run from the first batch of requests from number `begin` on to the last before the arrivals end.

    Returns it with workers as the run took and left them, the number of its first request, and the run's own batches
    in it. `batches` are all of the run, on an `instance` with all its requests and idle workers. Raises `StudyError`
    where the run is too short for one batch, or served out of the order of arrival.
    """
    last_s = instance.at_s[-1]
    head = next((at for at, batch in enumerate(batches) if min(batch.members) >= begin), len(batches))
    inside = [batch for batch in batches[head:] if batch.start_s < last_s]
    if not inside:
        raise StudyError("no batch starts between the warm-up and the last arrival; make the run longer")
    first, end = min(inside[0].members), max(inside[-1].members) + 1
    own = [Planned(tuple(member - first for member in batch.members), batch.variant, batch.start_s) for batch in inside]
    before = free_after(instance, batches[:head])
    if any(max(batch.members) >= first for batch in batches[:head]) or any(
        max(each.members) >= end - first for each in own
    ):
        raise StudyError("the policy served requests out of the order of their arrival")
    part = instance.part(first, end, before)
    return replace(part, handover_s=free_after(part, own)), first, own
