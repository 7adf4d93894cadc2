from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests import bound as bound_module
from loadtests.bound import BatchCost, Bound, Demand, batch_costs, demands_of, upper_bound
from loadtests.workload import Call
from serving.core.budget import RequestBudget
from tests.support.views import small_and_large

SMALL = BatchCost(0.6, (1.0, 2.0, 3.0))
LARGE = BatchCost(0.9, (3.0, 6.0, 9.0))


def demand(at_s, budget_s, *variants, rows=1):
    return Demand(at_s, budget_s, rows, variants)


def clairvoyant(demands, workers):
    """The most any schedule of whole batches on separate workers can serve in time: all of them are tried.

    Batches are taken in the order of their starts, each begins as soon as the first free worker and its members
    are there; no other schedule does better.
    """
    variants = {variant for item in demands for variant in item.variants}

    def best(left, free_s):
        most = 0.0
        for size in range(1, len(left) + 1):
            for places in combinations(left, size):
                members = [demands[place] for place in places]
                rows = sum(item.rows for item in members)
                begin_s = max(free_s[0], *(item.at_s for item in members))
                due_s = min(item.at_s + item.budget_s for item in members)
                rest = tuple(place for place in left if place not in places)
                for variant in variants:
                    if rows > len(variant.seconds) or not all(variant in item.variants for item in members):
                        continue
                    end_s = begin_s + variant.seconds[rows - 1]
                    if end_s <= due_s + 1e-12:
                        later = best(rest, tuple(sorted((*free_s[1:], end_s))))
                        most = max(most, rows * variant.accuracy + later)
        return most

    return best(tuple(range(len(demands))), (0.0,) * workers)


@st.composite
def costs(draw):
    steps = draw(st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 6)))
    times = tuple(float(sum(steps[: size + 1])) for size in range(3))
    return BatchCost(draw(st.integers(1, 100)) / 100, times[: draw(st.integers(1, 3))])


@st.composite
def instances(draw, mixed):
    """At most five requests, two variants, two workers. Mixed: each request with its own variants, rows and window."""
    variants = draw(st.tuples(costs(), costs()))
    budget_s = draw(st.integers(1, 15))
    at_s, demands = 0, []
    for _ in range(draw(st.integers(1, 5))):
        at_s += draw(st.integers(0, 4))
        if mixed:
            allowed = draw(st.sampled_from([variants, variants[:1], variants[1:], ()]))
            item = demand(float(at_s), float(draw(st.integers(1, 15))), *allowed, rows=draw(st.integers(1, 2)))
        else:
            item = demand(float(at_s), float(budget_s), *variants)
        demands.append(item)
    return demands, draw(st.integers(1, 2))


@settings(max_examples=300, deadline=None)
@given(instances(mixed=False))
def test_no_schedule_beats_the_bound_when_requests_are_alike(instance):
    demands, workers = instance
    assert clairvoyant(demands, workers) <= upper_bound(demands, workers).accuracy_sum + 1e-9


@settings(max_examples=300, deadline=None)
@given(instances(mixed=True))
def test_no_schedule_beats_the_bound_when_each_request_has_its_own_variants(instance):
    demands, workers = instance
    assert clairvoyant(demands, workers) <= upper_bound(demands, workers).accuracy_sum + 1e-9


@settings(max_examples=150, deadline=None)
@given(instances(mixed=True))
def test_merging_slopes_only_raises_the_bound(instance):
    demands, workers = instance
    exact = upper_bound(demands, workers).accuracy_sum
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bound_module, "MOST_SLOPES", 2)
        assert upper_bound(demands, workers).accuracy_sum >= exact - 1e-9


def test_requests_far_apart_all_get_their_best_variant():
    bound = upper_bound([demand(100.0 * number, 20.0, SMALL, LARGE) for number in range(50)], workers=1)
    assert bound.effective_accuracy == pytest.approx(0.9)
    assert clairvoyant([demand(0.0, 20.0, SMALL, LARGE), demand(100.0, 20.0, SMALL, LARGE)], 1) == pytest.approx(1.8)


@pytest.mark.parametrize("workers", [1, 2])
def test_in_an_overload_it_is_the_share_that_capacity_answers(workers):
    # A thousand a second against `workers` rows a second of the small variant, which earns most a second.
    demands = [demand(number / 1000, 10.0, SMALL, LARGE) for number in range(100_000)]
    time_s = 100 + 10 - 1 / 1000
    assert upper_bound(demands, workers).accuracy_sum == pytest.approx(0.6 * workers * time_s, rel=1e-3)


def test_between_them_capacity_left_by_the_small_variant_buys_the_large_one():
    # One request a second and worker: 1 s of small earns 0.6; 2 s more earn 0.3 more. With 2 workers: half of them.
    demands = [demand(float(number), 50.0, SMALL, LARGE) for number in range(10_000)]
    assert upper_bound(demands, 2).effective_accuracy == pytest.approx(0.6 + 0.3 / 2, rel=2e-2)


def test_batches_lower_the_price_only_as_far_as_they_fit_the_window():
    batched = BatchCost(1.0, (4.0, 5.0, 6.0))
    at_once = [demand(0.0, budget_s, batched) for budget_s in [6.0, 6.0, 6.0]]
    assert upper_bound(at_once, 1).accuracy_sum == pytest.approx(3.0) == clairvoyant(at_once, 1)
    tighter = [demand(0.0, 5.0, batched) for _ in range(3)]  # 2.5 s a row, and 5 s to do it
    assert upper_bound(tighter, 1).accuracy_sum == pytest.approx(2.0) == clairvoyant(tighter, 1)
    assert upper_bound([demand(0.0, 3.9, batched)], 1).accuracy_sum == 0


def test_a_floor_takes_work_where_the_slope_of_its_own_hull_says():
    # 12 s of one worker. The floor's request earns 0.9 for 3 s (0.3 a second), small ones 0.6 a second, and what a
    # small one earns more as a large one is 0.15 a second: so 6 s of small, 3 s of floor, 3 s of upgrades.
    plain = [demand(0.0, 12.0, SMALL, LARGE) for _ in range(6)]
    floors = [demand(0.0, 12.0, LARGE)]
    assert upper_bound(plain + floors, 1).accuracy_sum == pytest.approx(6 * 0.6 + 0.9 + 3 * 0.15)
    assert upper_bound([*floors, *plain], 1) == upper_bound(plain + floors, 1)


def test_a_request_of_many_rows_costs_and_earns_as_many():
    rows_of_two = [demand(0.0, 4.0, SMALL, rows=2) for _ in range(3)]
    assert upper_bound(rows_of_two, 1) == Bound(pytest.approx(4 * 0.6), 6)
    too_many = [demand(0.0, 100.0, SMALL, rows=4)]  # more than a batch may hold
    assert upper_bound(too_many, 1) == Bound(0.0, 4)


def test_work_is_done_in_its_own_window_and_by_deadline():
    # Two seconds of the long request's seven go to the steeper short one, and to no more than one of them.
    demands = [demand(0.0, 7.0, BatchCost(1.0, (6.0,))), demand(5.0, 2.0, BatchCost(1.0, (2.0,)))]
    assert upper_bound(demands, 1).accuracy_sum == pytest.approx(1 + 5 / 6)
    assert upper_bound([*demands, demand(5.0, 2.0, BatchCost(1.0, (2.0,)))], 1).accuracy_sum == pytest.approx(1 + 5 / 6)


def test_it_is_close_on_small_instances():
    ratios = []
    for gap in (1, 2, 3, 5):
        for budget in (4, 6, 9):
            demands = [demand(float(gap * number), float(budget), SMALL, LARGE) for number in range(5)]
            ratios.append(clairvoyant(demands, 1) / upper_bound(demands, 1).accuracy_sum)
    assert max(ratios) <= 1 + 1e-9
    assert min(ratios) > 0.8
    assert sum(ratios) / len(ratios) > 0.9


def test_merged_slopes_stay_close():
    demands = [demand(number / 7, 5.0, BatchCost(0.5 + number / 1000, (1.0 + number / 500,))) for number in range(200)]
    exact_by_hand = sum(item.variants[0].accuracy for item in demands)
    found = upper_bound(demands, 100).accuracy_sum  # capacity for all
    assert exact_by_hand * (1 - 1e-9) <= found <= exact_by_hand * 1.02


def test_nothing_asked_is_nothing_earned():
    assert upper_bound([], 1) == Bound(0.0, 0)
    assert Bound(0.0, 0).effective_accuracy == 0
    assert upper_bound([demand(0.0, 1.0)], 1) == Bound(0.0, 1)


def test_measured_times_that_fall_are_lowered_and_raw_ones_are_refused():
    assert BatchCost.measured(0.9, [3.0, 2.0, 5.0, 4.0]).seconds == (2.0, 2.0, 4.0, 4.0)
    for seconds in [(), (0.0, 1.0), (2.0, 1.0)]:
        with pytest.raises(ValueError, match="batch times"):
            BatchCost(0.9, seconds)


def test_calls_become_demands_with_the_variants_their_budgets_allow():
    views = small_and_large()
    costs = batch_costs(views, 8)
    assert costs[1].seconds[3] == pytest.approx(0.04)
    budgets = [
        RequestBudget(0.02),
        RequestBudget(0.02, min_accuracy=0.8),
        RequestBudget(0.02, variant="v0"),
        RequestBudget(0.005),
        RequestBudget(0.02, min_accuracy=0.95),
    ]
    made = [Call(0.5, "m", 1, budget, "k") for budget in budgets]
    found = list(demands_of(made, {"m": views}, {"m": costs}))
    assert [item.variants for item in found] == [costs, costs[1:], costs[:1], costs[:1], ()]
    assert (found[0].at_s, found[0].budget_s, found[0].rows) == (0.5, 0.02, 1)
