from math import exp, log

import pytest

from serving.core.drift import CLIP, LIMIT, USUAL, Drift, Shift

TWICE = log(2.0)


def watch(drift: Drift, batches: list[tuple[int, float]]) -> list[Shift]:
    """Batches as variant and log ratio, with nothing learnt from them meanwhile; who moved by each."""
    found = [drift.see(variant, log_ratio, 0.0) for variant, log_ratio in batches]
    return [shift for shift in found if shift is not None]


@pytest.mark.parametrize("sign", [1, -1])
def test_four_batches_of_twice_the_prediction_are_a_shift_of_that_size(sign: int) -> None:
    drift = Drift((0, 1))
    assert watch(drift, [(1, 0.0)] + [(0, sign * TWICE)] * 3) == []
    (shift,) = watch(drift, [(0, sign * TWICE)])
    assert exp(shift.log_factor) == pytest.approx(2.0**sign)


def test_what_is_usual_never_adds_up() -> None:
    drift = Drift((0,))
    assert watch(drift, [(0, USUAL), (0, -USUAL)] * 1000 + [(0, USUAL)] * 1000) == []


def test_single_stalls_are_forgotten_between_usual_batches() -> None:
    drift = Drift((0,))
    stall = [(0, 10 * CLIP)] + [(0, 0.0)] * 8
    assert watch(drift, stall * 500) == []


def test_a_shift_is_what_is_left_of_it_after_what_was_learnt_on_the_way() -> None:
    """The slowdown follows while the sum grows: the rest is told, not the whole."""
    drift, log_factor = Drift((0,)), 0.0
    for _ in range(100):
        shift = drift.see(0, TWICE - log_factor, log_factor)
        if shift is not None:
            break
        log_factor += 0.1 * (TWICE - log_factor)
    assert shift is not None
    assert log_factor + shift.log_factor == pytest.approx(TWICE)


def test_where_nobody_kept_to_its_prediction_the_host_has_moved() -> None:
    drift = Drift((0, 1, 2))
    (shift,) = watch(drift, [(0, TWICE)] * 4)
    assert shift.variants == {0, 1, 2}
    drift = Drift((0, 1, 2))
    (shift,) = watch(drift, [(0, TWICE), (1, TWICE)] * 3 + [(0, TWICE)])
    assert shift.variants == {0, 1, 2}
    assert watch(drift, [(1, 0.0), (0, 0.0)] * 20) == [], "and all begin anew"


def test_beside_a_witness_one_moves_alone() -> None:
    drift = Drift((0, 1, 2))
    (shift,) = watch(drift, [(0, TWICE), (1, 0.0)] * 4)
    assert shift.variants == {0}


def test_a_witness_of_old_is_none() -> None:
    drift = Drift((0, 1))
    (shift,) = watch(drift, [(1, 0.0)] * 50 + [(0, TWICE)] * 4)
    assert shift.variants == {0, 1}


def test_who_was_moved_along_for_nothing_goes_back_with_the_first_that_runs() -> None:
    drift = Drift((0, 1, 2, 3))
    watch(drift, [(0, TWICE)] * 4)  # all four are moved
    watch(drift, [(0, 0.0), (3, 0.0)] * 5)  # and the last is where it was moved to
    (back,) = watch(drift, [(1, -TWICE), (0, 0.0)] * 4)
    assert back.variants == {1, 2}
    assert back.log_factor == pytest.approx(-TWICE)
    (alone,) = watch(drift, [(3, -TWICE), (0, 0.0)] * 4)
    assert alone.variants == {3}


def test_many_small_deviations_add_up_to_the_limit() -> None:
    drift, small = Drift((0,)), USUAL + 0.1
    needed = int(LIMIT / 0.1) + 1
    assert watch(drift, [(0, small)] * (needed - 2)) == []
    assert len(watch(drift, [(0, small)] * 3)) == 1
