import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.residuals import CALIBRATION_NOISE, STALL, STALLS, WINDOW, Residuals


@given(st.lists(st.sampled_from((0.5, 0.8, 1.0, 1.2, STALL)), max_size=450))
def test_without_stalls_quantiles_and_chances_are_those_of_the_window(ratios: list[float]) -> None:
    residuals = Residuals()
    for ratio in ratios:
        residuals.see(ratio)
    window = sorted([*CALIBRATION_NOISE, *ratios][-WINDOW:])
    for share in (0.1, 0.5, 0.9, 1.0):
        assert residuals.quantile(share) == window[min(len(window) - 1, int(share * len(window)))]
    for ratio in (0.4, 1.0, 2.0):
        assert residuals.chance(ratio) == pytest.approx(sum(seen <= ratio for seen in window) / len(window))


def test_a_stall_leaves_the_usual_noise_as_it_is() -> None:
    residuals = Residuals((1.0,))
    for _ in range(WINDOW):
        residuals.see(1.0)
    residuals.see(7.0)
    assert residuals.quantile(0.9) == residuals.quantile(0.99) == 1.0
    assert residuals.quantile(1.0) == 7.0
    assert residuals.chance(1.0) == pytest.approx(1 - residuals.stall_share)
    assert residuals.chance(6.9) == residuals.chance(1.0)
    assert residuals.chance(7.0) == 1.0


@pytest.mark.parametrize("share", [0.005, 0.05])
def test_the_share_of_stalls_is_steadier_than_a_window_could_tell(share: float) -> None:
    residuals, noise = Residuals(), random.Random(3)
    told = []
    for turn in range(20_000):
        residuals.see(3.0 if noise.random() < share else 1.0)
        if turn > 4000:
            told.append(residuals.stall_share)
    assert sum(told) / len(told) == pytest.approx(share, rel=0.2)
    spread = (sum((each - share) ** 2 for each in told) / len(told)) ** 0.5
    of_a_window = (share * (1 - share) / WINDOW) ** 0.5
    assert spread < 0.7 * of_a_window


def test_where_stalls_are_common_they_are_planned_for() -> None:
    residuals = Residuals()
    for turn in range(5000):
        residuals.see(4.0 if turn % 5 == 0 else 1.0)
    assert residuals.stall_share == pytest.approx(0.2, rel=0.05)
    assert residuals.quantile(0.5) == 1.0
    assert residuals.quantile(0.9) == 4.0


def test_fading_displaces_a_quarter_and_believes_in_fewer_stalls() -> None:
    residuals = Residuals((1.0,))
    for _ in range(WINDOW):
        residuals.see(1.5)
    for _ in range(STALLS):
        residuals.see(5.0)
    before = residuals.stall_share
    residuals.fade()
    assert residuals.stall_share == pytest.approx(0.75 * before)
    assert residuals.quantile(0.2) == 1.0
    assert residuals.quantile(0.3) == 1.5
