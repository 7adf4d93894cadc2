import numpy as np
import pytest

from loadtests.clairvoyant.instance import Instance
from loadtests.clairvoyant.schedule import Planned, ScheduleError, accuracy_sum, free_after

SECONDS = np.array([[[1.0, 1.5], [2.0, 2.5]], [[3.0, np.inf], [4.0, np.inf]]])
"""Two variants, two workers, batches of one and two requests."""


def problem(**more):
    facts = {"budget_s": 5.0, "free_s": (0.0, 0.0)} | more
    return Instance(at_s=np.array([0.0, 1.0, 2.0, 3.0]), rows=10, accuracies=(0.5, 0.9), seconds=SECONDS, **facts)


def test_a_schedule_earns_rows_times_accuracy():
    batches = [Planned((0,), 1, 0.0), Planned((1, 2), 0, 2.0), Planned((3,), 0, 4.5)]
    assert accuracy_sum(problem(), batches) == pytest.approx(10 * 0.9 + 20 * 0.5 + 10 * 0.5)


def test_a_neighbour_that_runs_slows_a_batch_down():
    first = Planned((0,), 1, 0.0)
    assert free_after(problem(), [first, Planned((1,), 0, 1.0)]) == (3.0, 3.0)
    assert free_after(problem(), [first, Planned((1,), 0, 3.0)]) == (3.0, 4.0)


def test_nothing_served_earns_nothing():
    assert accuracy_sum(problem(), []) == 0


@pytest.mark.parametrize(
    ("batches", "rule"),
    [
        ([Planned((0,), 0, -1.0)], "before its last member"),
        ([Planned((0, 1), 0, 0.0)], "before its last member"),
        ([Planned((1,), 0, 2.0), Planned((0,), 0, 1.0)], "before the one ahead"),
        ([Planned((0,), 1, 0.0), Planned((1,), 1, 1.0), Planned((2,), 0, 2.0)], "every worker is busy"),
        ([Planned((0,), 1, 2.5)], "after a deadline"),
        ([Planned((0, 3), 0, 4.0)], "after a deadline"),
        ([Planned((0, 1), 1, 1.0)], "after a deadline"),
        ([Planned((0,), 0, 0.0), Planned((0,), 0, 1.0)], "a second time"),
        ([Planned((0, 0), 0, 0.0)], "a second time"),
        ([Planned((), 0, 0.0)], "0 members"),
        ([Planned((0, 1, 2), 0, 2.0)], "3 members"),
        ([Planned((4,), 0, 4.0)], "there are not"),
        ([Planned((-1,), 0, 4.0)], "there are not"),
    ],
)
def test_a_broken_rule_is_named(batches, rule):
    with pytest.raises(ScheduleError, match=rule):
        accuracy_sum(problem(), batches)


def test_workers_must_come_and_go_as_agreed():
    late = [Planned((0,), 0, 0.5)]
    with pytest.raises(ScheduleError, match="every worker is busy"):
        accuracy_sum(problem(free_s=(1.0, 1.0)), late)
    assert accuracy_sum(problem(handover_s=(0.0, 1.5)), late) == 5
    with pytest.raises(ScheduleError, match="handed over too late"):
        accuracy_sum(problem(handover_s=(0.0, 1.4)), late)
