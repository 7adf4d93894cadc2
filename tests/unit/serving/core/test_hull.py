from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.hull import CapacityValue

points = st.lists(
    st.tuples(st.integers(1, 40).map(lambda ms: ms / 1e3), st.integers(1, 100).map(lambda p: p / 100)),
    min_size=1,
    max_size=5,
)
capacities = st.integers(1, 400).map(lambda ms: ms / 1e3)


@given(points, st.lists(st.integers(0, 10), min_size=5, max_size=5))
def test_the_hull_bounds_every_mixture(points: list[tuple[float, float]], counts: list[int]) -> None:
    used = list(zip(points, counts, strict=False))
    rows = sum(count for _, count in used)
    capacity_s = sum(price_s * count for (price_s, _), count in used)
    accuracy = sum(accuracy * count for (_, accuracy), count in used)
    assert CapacityValue(points).of(rows, capacity_s) >= accuracy - 1e-9


@given(points, capacities)
def test_the_hull_is_reached_by_a_mixture_of_two(points: list[tuple[float, float]], capacity_s: float) -> None:
    rows = 10
    best = 0.0
    choices = [(0.0, 0.0), *points]
    for cheap_s, low in choices:
        for dear_s, high in choices:
            if cheap_s * rows <= capacity_s:
                left_s = capacity_s - cheap_s * rows
                share = 1.0 if dear_s <= cheap_s else min(1.0, left_s / ((dear_s - cheap_s) * rows))
                best = max(best, rows * (low + share * (high - low)), rows * low)
    assert CapacityValue(points).of(rows, capacity_s) == pytest.approx(best)


@given(points, st.integers(1, 30))
def test_the_hull_is_concave_and_never_falls(points: list[tuple[float, float]], rows: int) -> None:
    value = CapacityValue(points)
    worth = [value.of(rows, step / 1e3) for step in range(0, 400, 7)]
    gains = [b - a for a, b in pairwise(worth)]
    assert all(gain >= -1e-9 for gain in gains)
    assert all(b <= a + 1e-9 for a, b in pairwise(gains))
    assert worth[-1] <= rows * max(accuracy for _, accuracy in points) + 1e-9


@given(points, st.integers(1, 20), capacities)
def test_more_rows_never_make_the_same_capacity_worth_less(
    points: list[tuple[float, float]], rows: int, capacity_s: float
) -> None:
    value = CapacityValue(points)
    assert value.of(rows + 1, capacity_s) >= value.of(rows, capacity_s) - 1e-9


def test_no_rows_or_no_capacity_are_worth_nothing() -> None:
    value = CapacityValue([(0.01, 0.9)])
    assert value.of(0, 1.0) == value.of(5, 0.0) == value.of(5, -1.0) == CapacityValue(()).of(5, 1.0) == 0.0


def test_a_known_hull() -> None:
    # The middle one lies under the line between its neighbours: it never pays.
    value = CapacityValue([(1.0, 0.6), (2.0, 0.65), (3.0, 0.9), (4.0, 0.9)])
    assert value.of(1, 1.0) == pytest.approx(0.6)
    assert value.of(1, 2.0) == pytest.approx(0.75)
    assert value.of(2, 6.0) == value.of(2, 100.0) == pytest.approx(1.8)
    assert value.of(4, 2.0) == pytest.approx(1.2)


@given(points, st.floats(0.001, 1.0))
def test_the_price_of_an_accuracy_is_where_capacity_buys_it(points: list[tuple[float, float]], wanted: float) -> None:
    value = CapacityValue(points)
    best = max(accuracy for _, accuracy in points)
    price_s = value.price_of(wanted)
    assert value.of(1, price_s) == pytest.approx(min(wanted, best))
    if price_s > 1e-6:
        assert value.of(1, price_s * 0.99) < min(wanted, best)
