import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.benchmark.load import LoadResult, merge_errors, percentile


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1.0), (0.5, 50.0), (0.501, 51.0), (0.99, 99.0), (0.995, 100.0), (1.0, 100.0)]
)
def test_nearest_rank_percentiles_of_one_to_a_hundred(share, expected):
    assert percentile([float(value) for value in range(1, 101)], share) == expected


def test_percentile_of_one_value_is_that_value_and_of_nothing_is_nan():
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7.0
    assert math.isnan(percentile([], 0.5))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_percentile_refuses_a_share_outside_of_0_to_1(share):
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_at_least_the_share_of_values_is_at_or_below_the_percentile(values, share):
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) * (1 - 1e-12)


def test_errors_add_up_by_kind_and_zeros_vanish():
    assert merge_errors({"read": 2, "status": 0}, {}, {"read": 1, "timeout": 3}) == {"read": 3, "timeout": 3}


def test_requests_per_second_of_an_empty_window_is_zero():
    assert LoadResult(10, 2.0, 0.1, 0.2).rps == 5.0
    assert LoadResult(0, 0.0, math.nan, math.nan).rps == 0.0
