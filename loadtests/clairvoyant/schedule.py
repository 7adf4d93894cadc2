"""A finished schedule, and the check that it could be carried out: independent of whatever found it."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.clairvoyant.instance import TOLERANCE_S, Instance


class ScheduleError(ValueError):
    """A schedule that breaks a rule; the message says which batch and which rule."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One batch. Requests are known by their place in the order of arrival."""

    members: Sequence[int]
    variant: int
    """Place in the family."""
    start_s: float


def accuracy_sum(instance: Instance, batches: Sequence[Planned]) -> float:
    """What the schedule earns: accuracy times rows over all batches, which come in the order of their starts.

    It is replayed from nothing but the batches: each takes the worker that is free first, as long as the measured
    duration says for that many busy workers. Raises `ScheduleError` where a batch starts before its last member is
    there, before the batch ahead of it, or on no free worker, where it ends after its first member's deadline, where a
    request is answered twice, and where the workers are handed over too late.
    """
    running = list(instance.free_s)
    answered: set[int] = set()
    before_s, earned = float("-inf"), 0.0
    for place, batch in enumerate(batches):
        members = batch.members
        if not 0 < len(members) <= instance.most:
            raise ScheduleError(f"batch {place} has {len(members)} members, and may have 1 to {instance.most}")
        if not 0 <= min(members) <= max(members) < len(instance.at_s):
            raise ScheduleError(f"batch {place} has members that there are not")
        if len(set(members)) < len(members) or not answered.isdisjoint(members):
            raise ScheduleError(f"batch {place} answers a request a second time")
        answered.update(members)
        if batch.start_s < before_s:
            raise ScheduleError(f"batch {place} starts before the one ahead of it")
        if batch.start_s < max(instance.at_s[member] for member in members):
            raise ScheduleError(f"batch {place} starts before its last member arrives")
        worker = min(range(len(running)), key=running.__getitem__)
        if running[worker] > batch.start_s:
            raise ScheduleError(f"batch {place} starts while every worker is busy")
        busy = sum(until_s > batch.start_s for until_s in running)
        end_s = batch.start_s + float(instance.seconds[batch.variant, busy, len(members) - 1])
        if end_s > min(instance.due_s[member] for member in members) + TOLERANCE_S:
            raise ScheduleError(f"batch {place} ends after a deadline")
        running[worker] = end_s
        before_s = batch.start_s
        earned += instance.accuracies[batch.variant] * instance.rows * len(members)
    if not instance.hands_over(running):
        raise ScheduleError("the workers are handed over too late")
    return earned


def free_after(instance: Instance, batches: Sequence[Planned]) -> tuple[float, ...]:
    """When the workers are free after the batches of a schedule that `accuracy_sum` accepts, earliest first."""
    running = sorted(instance.free_s)
    for batch in batches:
        busy = sum(until_s > batch.start_s for until_s in running)
        took_s = float(instance.seconds[batch.variant, busy, len(batch.members) - 1])
        running = sorted((*running[1:], batch.start_s + took_s))
    return tuple(running)
