from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.clairvoyant.ceiling import ceiling
from loadtests.clairvoyant.instance import Instance, useful_sizes
from loadtests.clairvoyant.schedule import Planned, ScheduleError, accuracy_sum, free_after
from loadtests.clairvoyant.search import best_schedule

WIDE = 10_000


def instance(at_s, budget_s, seconds, accuracies=(0.6, 0.9), workers=1, **more):
    """`seconds[v][m]`, the same however many workers are busy, or `seconds[v][k][m]`."""
    times = np.array(seconds, dtype=float)
    if times.ndim == 2:
        times = np.repeat(times[:, None, :], workers, axis=1)
    arrivals = np.array(at_s, dtype=float)
    return Instance(arrivals, float(budget_s), 1, tuple(accuracies), times, (0.0,) * workers, **more)


def exhaustive(problem):
    """The most that any schedule earns whose batches start as soon as a worker and the members are there."""

    def best(left, free_s):
        most = 0.0
        for size in range(1, min(len(left), problem.most) + 1):
            for members in combinations(left, size):
                start_s = max(free_s[0], *(problem.at_s[member] for member in members))
                busy = sum(until_s > start_s for until_s in free_s)
                rest = tuple(each for each in left if each not in members)
                for variant, accuracy in enumerate(problem.accuracies):
                    end_s = start_s + problem.seconds[variant, busy, size - 1]
                    if end_s <= min(problem.due_s[member] for member in members) + 1e-9:
                        later = best(rest, tuple(sorted((*free_s[1:], end_s))))
                        most = max(most, size * accuracy + later)
        return most

    return best(tuple(range(len(problem.at_s))), problem.free_s)


@st.composite
def problems(draw, workers):
    at_s = np.cumsum(draw(st.lists(st.integers(0, 4), min_size=1, max_size=5)))
    seconds = []
    for _ in range(2):
        first = np.cumsum((draw(st.integers(1, 6)), draw(st.integers(0, 6)), draw(st.integers(0, 6))))
        slower = draw(st.integers(0, 3))
        seconds.append([first, first + slower][:workers])
    accuracies = (draw(st.integers(1, 100)) / 100, draw(st.integers(1, 100)) / 100)
    return instance(at_s, draw(st.integers(1, 15)), seconds, accuracies, workers)


@settings(max_examples=200, deadline=None)
@given(problems(workers=1))
def test_one_worker_gets_the_best_of_all_schedules(problem):
    assert accuracy_sum(problem, best_schedule(problem, WIDE)) == pytest.approx(exhaustive(problem))


@settings(max_examples=150, deadline=None)
@given(problems(workers=2), st.integers(1, 8))
def test_between_a_feasible_schedule_and_the_ceiling_lies_the_best(problem, beam):
    most = exhaustive(problem)
    assert accuracy_sum(problem, best_schedule(problem, beam)) <= most + 1e-9
    assert most <= ceiling(problem) + 1e-9


@settings(max_examples=100, deadline=None)
@given(problems(workers=2))
def test_a_handover_that_a_schedule_keeps_is_kept_by_the_one_found_and_lowers_the_ceiling(problem):
    known = best_schedule(problem, WIDE)[:2]
    cut = instance(
        problem.at_s,
        problem.budget_s,
        problem.seconds,
        problem.accuracies,
        2,
        handover_s=free_after(problem, known),
    )
    found = accuracy_sum(cut, best_schedule(cut, WIDE, known))
    assert accuracy_sum(cut, known) <= found + 1e-9
    assert found <= ceiling(cut) + 1e-9
    assert ceiling(cut) <= ceiling(problem) + 1e-9


def test_foresight_leaves_room_for_what_comes():
    # Alone each request would get the large variant; it is known that the second comes, so the first gets the small.
    problem = instance([0, 1], 3.5, [[1.0], [3.0]])
    assert best_schedule(problem) == [Planned(range(1), 0, 0.0), Planned(range(1, 2), 1, 1.0)]


def test_waiting_for_a_full_batch_is_found_where_it_pays():
    problem = instance([0, 1, 2], 8, [[3.0, 3.0, 3.0], [5.0, 5.0, 5.0]])
    assert best_schedule(problem) == [Planned(range(3), 1, 2.0)]


def test_a_narrow_beam_is_close_to_a_wide_one():
    rng = np.random.default_rng(1)
    sizes = np.arange(1, 5)
    problem = instance(np.cumsum(rng.exponential(1.0, 300)), 12, [0.9 + 0.6 * sizes, 1.0 + 1.5 * sizes], workers=2)
    wide, narrow = (accuracy_sum(problem, best_schedule(problem, beam)) for beam in (400, 24))
    least = 0.6 * 300
    assert narrow <= wide < ceiling(problem)
    assert narrow - least >= 0.97 * (wide - least)


def test_a_slow_neighbour_lowers_the_ceiling():
    at_s = np.arange(0.0, 40.0, 0.5)
    calm, beside = [[1.0]], [[[1.0], [2.0]]]
    lucky, real = (ceiling(instance(at_s, 3, seconds, (1.0,), workers=2)) for seconds in (calm, beside))
    assert real < 0.83 * lucky
    problem = instance(at_s, 3, beside, (1.0,), workers=2)
    assert accuracy_sum(problem, best_schedule(problem)) <= real


def test_a_schedule_to_begin_with_must_be_feasible():
    problem = instance([0, 1], 3.5, [[1.0], [3.0]])
    with pytest.raises(ScheduleError, match="before its last member"):
        best_schedule(problem, known=[Planned((1,), 0, 0.0)])


def test_sizes_are_dense_where_batches_are_small():
    assert useful_sizes(1) == (1,)
    assert useful_sizes(10) == (1, 2, 3, 4, 5, 6, 7, 8, 10)
    assert useful_sizes(64)[-5:] == (32, 40, 48, 56, 64)
