"""A simulated gateway: the production schedulers and bookings, and what they are connected to."""

from collections.abc import Sequence
from math import inf

from loadtests.durations import uniforms
from loadtests.simulation.pool import Booked, Host, Pool, TwoChoices
from loadtests.simulation.served import Eligibilities, Served
from loadtests.simulation.setting import Assumptions, Fleet
from serving.core.demand import DemandOptions
from serving.core.policies.registry import NamedPolicy
from serving.core.scheduler import Scheduler, SchedulerOptions
from serving.core.shares import Shares
from serving.core.workers import Workers, own_workers

SPLIT_DEPTH = 2
"""Batches in flight a worker and gateway in the split topology, as its backend has it."""


class Gateway:
    """One gateway: its schedulers, its bookings, its event loop."""

    __slots__ = (
        "armed_s", "due_s", "eligibilities", "loop_free_s", "number",
        "pool", "route", "schedulers", "shares", "workers",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        schedulers: list[Scheduler],
        workers: Workers,
        pool: Pool,
        route: Booked | TwoChoices,
        weights: Sequence[float] = (),
    ) -> None:
        self.number = number
        self.schedulers = schedulers
        self.eligibilities = [Eligibilities(scheduler) for scheduler in schedulers]
        self.workers = workers
        self.pool = pool
        self.route = route
        self.due_s = inf
        """When its policies want to be asked again."""
        self.shares: Shares[int] = Shares()
        """Of the models, by number."""
        for model in range(len(schedulers)):
            self.shares.add(model, weights[model] if weights else 1.0)
        self.armed_s = inf
        """The earliest timer that is set."""
        self.loop_free_s = 0.0

    def in_order(self, now_s: float) -> Sequence[int]:
        """The models that have requests waiting, in the order in which the dispatcher serves them."""
        waiting = [
            (scheduler.queue.head.deadline_s, number)
            for number, scheduler in enumerate(self.schedulers)
            if scheduler.queue
        ]
        return self.shares.order(waiting, now_s) if waiting else ()

    def counted(self, model: int, now_s: float) -> tuple[Sequence[float], float]:
        """When the workers that the model may count on are free, and how much of their time is its own."""
        contended = len(self.schedulers) > 1 and any(
            other.queue for number, other in enumerate(self.schedulers) if number != model
        )
        return self.shares.counted(model, now_s, self.workers.free_at_s(now_s), contended=contended)


def open_gateways(
    served: Sequence[Served], fleet: Fleet, policy: NamedPolicy, assumptions: Assumptions, seed: int
) -> list[Gateway]:
    """The gateways of a fleet, each with a scheduler for every model. Raises `PolicyError`."""
    host = Host()
    shared = Pool(fleet.workers, host)
    two_choices = TwoChoices(fleet.gateways, fleet.workers, fleet.staleness_s, uniforms(seed, stream=2))
    weights = [fleet.weights.get(family.name, 1.0) for family in served]
    gateways = []
    for number in range(fleet.gateways):
        schedulers = open_schedulers(served, policy, assumptions)
        if fleet.split:
            own, depth, pool = own_workers(fleet.workers, fleet.gateways, number), SPLIT_DEPTH, shared
        else:
            own, depth, pool = range(fleet.workers), 1, Pool(fleet.workers, host)
        route = two_choices if fleet.two_choices else Booked(own)
        gateways.append(Gateway(number, schedulers, Workers(len(own), depth), pool, route, weights))
    return gateways


def open_schedulers(
    served: Sequence[Served], policy: NamedPolicy, assumptions: Assumptions, demand: DemandOptions | None = None
) -> list[Scheduler]:
    """A gateway's schedulers, one for each model. Raises `PolicyError`."""
    options = SchedulerOptions(
        assumptions.max_queue_bytes,
        assumptions.plan_quantile,
        assumptions.batch_overhead_s,
        admission=policy.admission,
        demand=demand or DemandOptions(),
    )
    return [Scheduler(family.variants, policy.make, options) for family in served]
