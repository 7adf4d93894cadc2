import numpy as np
import pytest

from loadtests.bootstrap import mean_interval


def test_the_mean_lies_inside() -> None:
    found = mean_interval([[1.0, 2.0, 3.0, 4.0]])
    assert found.low < found.mean == 2.5 < found.high
    assert (found.low, found.high) == pytest.approx((1.5, 3.5), abs=0.3)


def test_groups_count_alike_and_are_resampled_apart() -> None:
    # However far groups lie apart, that is no uncertainty of their mean.
    found = mean_interval([[0.0, 0.0, 0.0], [100.0], [7.0, 7.0]])
    assert found.mean == found.low == pytest.approx(found.high) == pytest.approx(107 / 3)


def test_one_value_has_no_spread() -> None:
    assert mean_interval([[0.1]]) == mean_interval([[0.1, 0.1]])


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        found = mean_interval([rng.normal(3.0, 1.0, 30).tolist()], draws=300)
        covered += found.low <= 3.0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("groups", [[], [[1.0], []]])
def test_nothing_has_no_mean(groups: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval(groups)
