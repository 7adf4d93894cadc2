import math
import random
from collections.abc import Sequence
from itertools import pairwise, product
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.fleet import own_tables
from serving.core.latency import (
    KNEE_TOLERANCE,
    RATIO_CLIP,
    UNSEEN,
    LatencyModel,
    LatencyTable,
    isotonic,
)
from serving.core.residuals import CALIBRATION_NOISE, WINDOW
from tests.support.views import small_and_large

milliseconds = st.integers(1, 50).map(lambda ms: ms / 1e3)


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    rows = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=6)))
    return LatencyTable(rows, draw(st.lists(milliseconds, min_size=len(rows), max_size=len(rows))))


def squares(fitted: Sequence[float], values: Sequence[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(fitted, values, strict=True))


def test_isotonic_pools_what_falls() -> None:
    assert isotonic([1, 3, 2, 4]) == [1, 2.5, 2.5, 4]
    assert isotonic([3, 2, 1]) == [2, 2, 2]
    assert isotonic([1, 2, 2, 5]) == [1, 2, 2, 5]
    assert isotonic([]) == []


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_isotonic_is_the_nearest_rising_sequence(values: list[int]) -> None:
    fitted = isotonic(values)
    assert all(a <= b + 1e-12 for a, b in pairwise(fitted))
    # Every block of the optimum is a mean of neighbours: try all ways to cut the sequence into blocks.
    best = float("inf")
    for cuts in product((False, True), repeat=len(values) - 1):
        blocks: list[list[int]] = [[values[0]]]
        for cut, value in zip(cuts, values[1:], strict=True):
            if cut:
                blocks.append([value])
            else:
                blocks[-1].append(value)
        means = [sum(block) / len(block) for block in blocks for _ in block]
        if all(a <= b for a, b in pairwise(means)):
            best = min(best, squares(means, values))
    assert squares(fitted, values) == pytest.approx(best)


@given(tables())
def test_more_rows_never_take_less_time(table: LatencyTable) -> None:
    times = [table.seconds(rows) for rows in range(1, 100)]
    assert all(a <= b + 1e-12 for a, b in pairwise(times))
    assert times[0] > 0


def test_a_table_interpolates_and_goes_on_with_the_last_slope() -> None:
    table = LatencyTable((2, 4, 8), (0.002, 0.003, 0.007))
    assert table.seconds(1) == 0.002  # nothing smaller was measured
    assert table.seconds(3) == pytest.approx(0.0025)
    assert table.seconds(5) == pytest.approx(0.004)
    assert table.seconds(8) == pytest.approx(0.007)
    assert table.seconds(12) == pytest.approx(0.011)


def test_rows_beyond_a_flat_end_are_not_free() -> None:
    table = LatencyTable((1, 8), (0.008, 0.008))
    assert table.seconds(16) == pytest.approx(0.008 + 8 * 0.0005)


def test_a_table_of_one_size_extends_proportionally() -> None:
    assert LatencyTable((4,), (0.008,)).seconds(8) == pytest.approx(0.016)


@given(tables(), st.integers(1, 64), st.integers(0, 5))
def test_the_knee_is_the_smallest_of_the_nearly_best_batches(table: LatencyTable, most: int, overhead_ms: int) -> None:
    overhead_s = overhead_ms / 1e3
    knee = table.knee_rows(overhead_s, most)
    sizes = {1 << power for power in range(7) if 1 << power <= most} | {most}
    rates = {size: size / (table.seconds(size) + overhead_s) for size in sizes}
    assert knee in sizes
    enough = (1 - KNEE_TOLERANCE) * max(rates.values())
    assert rates[knee] >= enough - 1e-9
    assert all(rates[size] < enough + 1e-9 for size in sizes if size < knee)


def test_the_overhead_of_a_batch_moves_the_knee() -> None:
    no_gain = LatencyTable((1, 2, 4, 8), (0.001, 0.002, 0.004, 0.008))
    assert no_gain.knee_rows(0.0, 8) == 1
    assert no_gain.knee_rows(0.0001, 8) == 4  # 4 rows in 4.1 ms are 0.988 of 8 in 8.1 ms
    assert no_gain.knee_rows(0.001, 3) == 3
    assert no_gain.knee_rows(0.0001, 1) == 1


@given(tables(), milliseconds)
def test_the_least_price_of_a_row_is_that_of_some_measured_batch_in_time(table: LatencyTable, within_s: float) -> None:
    price_s = table.least_seconds_per_row(within_s, table.rows[-1])
    in_time = [table.seconds(n) / n for n in table.rows if table.seconds(n) <= within_s]
    assert price_s == pytest.approx(min([table.seconds(1), *in_time]))


def test_the_prior_is_believed_until_batches_are_seen() -> None:
    model = LatencyModel([LatencyTable((1,), (0.01,))])
    assert model.quantile_ratio(1.0) == max(CALIBRATION_NOISE)
    assert model.quantile_ratio(0.5) == sorted(CALIBRATION_NOISE)[5]
    for _ in range(WINDOW):
        model.observe(0, 1, model.mean_s(0, 1))
    assert model.quantile_ratio(0.01) == model.quantile_ratio(1.0) == pytest.approx(1.0)


def test_nothing_is_met_without_slack() -> None:
    model = LatencyModel([LatencyTable((1,), (0.01,))])
    assert model.met_probability(0.01, 0.0) == model.met_probability(0.01, -1.0) == 0.0


def test_an_exact_fit_is_a_fit() -> None:
    model = LatencyModel([LatencyTable((1,), (0.1,))], prior_residuals=(1.0,))
    assert model.met_probability(0.1 + 0.2, 0.3) == 1.0


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_the_slowdown_converges_to_the_true_factor(factor: float) -> None:
    model = LatencyModel([LatencyTable((1, 8), (0.01, 0.03)), LatencyTable((1,), (0.2,))])
    for turn in range(120):
        variant, rows = turn % 2, 1 + turn % 8
        model.observe(variant, rows, factor * model.tables[variant].seconds(rows))
    assert model.slowdown == pytest.approx(factor, rel=1e-3)
    assert model.mean_s(1, 1) == pytest.approx(0.2 * factor, rel=1e-3)


def test_a_host_far_slower_than_calibrated_is_learnt_too() -> None:
    model = LatencyModel([LatencyTable((1,), (0.01,))])
    for _ in range(200):
        model.observe(0, 1, 0.08)
    assert model.slowdown == pytest.approx(8.0, rel=1e-3)


def test_a_stall_does_not_bend_the_mean_but_shows_in_the_quantiles() -> None:
    model = LatencyModel([LatencyTable((1,), (0.01,))], prior_residuals=(1.0,))
    for _ in range(99):
        model.observe(0, 1, model.mean_s(0, 1))
    model.observe(0, 1, 10.0)
    assert 1 < model.slowdown <= exp(0.1 * log(RATIO_CLIP)) + 1e-12
    assert model.quantile_ratio(1.0) == pytest.approx(1000.0)
    assert model.quantile_ratio(0.9) == pytest.approx(1.0)


def test_relaxing_goes_half_way_back_and_takes_old_stalls_out_of_the_quantiles() -> None:
    model = LatencyModel([LatencyTable((1,), (0.01,))])
    for _ in range(300):
        model.observe(0, 1, 4 * 0.01)
    model.relax()
    assert model.slowdown == pytest.approx(2.0, rel=1e-3)
    for _ in range(4):
        model.relax()
    assert model.slowdown == pytest.approx(4 ** (1 / 32), rel=1e-3)
    assert model.quantile_ratio(0.95) == max(CALIBRATION_NOISE)


def ten_variants() -> LatencyModel:
    return LatencyModel([LatencyTable((1, 8), (0.001 * 2**n, 0.004 * 2**n)) for n in range(10)])


def serve(model: LatencyModel, true_s: Sequence[float], variants: Sequence[int], batches: int, seed: int = 1) -> None:
    """Batches of one row on these variants in turn, with the noise of a good host."""
    noise = random.Random(seed)
    for turn in range(batches):
        variant = variants[turn % len(variants)]
        model.observe(variant, 1, true_s[variant] * noise.lognormvariate(0, 0.12))


def predicted(model: LatencyModel) -> list[float]:
    return [model.mean_s(variant, 1) for variant in range(len(model.tables))]


def test_noise_and_rare_stalls_correct_no_table() -> None:
    model, noise = ten_variants(), random.Random(5)
    for _ in range(50_000):
        variant = noise.randrange(10)
        stall = 3.0 if noise.random() < 0.01 else 1.0
        model.observe(variant, 1, model.tables[variant].seconds(1) * noise.lognormvariate(0, 0.15) * stall)
    assert [table.seconds(1) for table in model.tables] == [0.001 * 2**n for n in range(10)]
    assert model.slowdown == pytest.approx(1.0, rel=0.25)


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 5.0])
def test_a_wrong_table_is_corrected_by_its_own_batches(factor: float) -> None:
    """The first variant takes `factor` times what its table says, and the others what theirs say."""
    model = ten_variants()
    true_s = [factor * 0.001, *(0.001 * 2**n for n in range(1, 10))]
    serve(model, true_s, (0, 3), 60)
    assert model.mean_s(0, 1) == pytest.approx(true_s[0], rel=0.3)
    assert model.mean_s(3, 1) == pytest.approx(true_s[3], rel=0.3)
    serve(model, true_s, (3, 7), 60, seed=2)
    assert predicted(model) == pytest.approx(true_s, rel=0.35)
    assert model.mean_s(0, 8) == pytest.approx(4 * model.mean_s(0, 1)), "the whole table moves"


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_where_the_only_one_seen_has_moved_all_have_until_another_is_seen(factor: float) -> None:
    model = ten_variants()
    true_s = [factor * 0.001, *(0.001 * 2**n for n in range(1, 10))]
    serve(model, true_s, (0,), 40)
    assert model.mean_s(0, 1) == pytest.approx(true_s[0], rel=0.3)
    assert model.mean_s(9, 1) == pytest.approx(factor * true_s[9], rel=0.3), "a busy host is what is more common"
    serve(model, true_s, (0, 4), 40, seed=2)
    assert predicted(model) == pytest.approx(true_s, rel=0.35), "those that nobody has seen go back with the other"


@pytest.mark.parametrize("factor", [0.5, 2.0, 6.0])
def test_a_host_that_slows_down_moves_everybody_within_a_few_batches(factor: float) -> None:
    model = ten_variants()
    usual_s = [0.001 * 2**n for n in range(10)]
    serve(model, usual_s, (0, 3, 7), 300)
    slow_s = [factor * seconds for seconds in usual_s]
    serve(model, slow_s, (0, 3, 7), 45, seed=2)
    assert predicted(model) == pytest.approx(slow_s, rel=0.35)


def test_a_correction_of_who_is_not_seen_is_forgotten_by_halves() -> None:
    model = ten_variants()
    true_s = [0.001 * 2**n for n in range(10)]
    serve(model, true_s, (1, 2, 9), 30)
    serve(model, [0.004, *true_s[1:]], (0, 1, 2, 9), 80)
    wrong_s = model.tables[0].seconds(1)
    assert wrong_s == pytest.approx(0.004, rel=0.35)
    serve(model, true_s, (1, 2, 9), 2 * UNSEEN, seed=2)
    assert model.tables[0].seconds(1) < 0.75 * wrong_s
    serve(model, true_s, (1, 2, 9), 10 * UNSEEN, seed=3)
    assert model.tables[0].seconds(1) == pytest.approx(0.001, rel=0.05)


def test_relaxing_goes_half_the_way_back_to_the_tables_too() -> None:
    model = ten_variants()
    true_s = [0.001 * 2**n for n in range(10)]
    serve(model, [0.004, *true_s[1:]], (0, 1, 2, 9), 120)
    before_s = model.tables[0].seconds(1)
    model.relax()
    assert model.tables[0].seconds(1) == pytest.approx((before_s * 0.001) ** 0.5)


def test_a_cascade_moves_with_what_it_consists_of() -> None:
    tables = [LatencyTable((1,), (seconds,)) for seconds in (0.001, 0.010, 0.001 + 0.3 * 0.010)]
    model = LatencyModel([*tables, LatencyTable((1,), (0.05,))], cascades={2: (0, 1)})
    for _ in range(30):
        model.observe(0, 1, 0.001)
        model.observe(1, 1, 0.030)
        model.observe(3, 1, 0.05)
    assert model.mean_s(1, 1) == pytest.approx(0.030, rel=0.1)
    assert model.mean_s(2, 1) == pytest.approx(0.001 + 0.3 * 0.030, rel=0.1)


def test_a_revision_tells_who_keeps_prices() -> None:
    model = ten_variants()
    before = model.revision
    serve(model, [0.001 * 2**n for n in range(10)], (0, 3), 500)
    assert model.revision == before
    serve(model, [0.004, *(0.001 * 2**n for n in range(1, 10))], (0, 3), 60)
    assert model.revision > before


def test_what_busy_workers_add_is_learnt_for_each_variant() -> None:
    """The second takes half as long again on a full host, the first does not mind."""
    model, noise = LatencyModel([LatencyTable((1,), (0.001,)), LatencyTable((1,), (0.002,))]), random.Random(7)
    for turn in range(3000):
        variant, crowd = turn % 2, float(noise.random() < 0.5)
        full = 1.5 if variant and crowd else 1.0
        model.observe(variant, 1, 0.001 * (1 + variant) * full * noise.lognormvariate(0, 0.1), crowd=crowd)
    for crowd, expected_s in ((0.0, (0.001, 0.002)), (1.0, (0.001, 0.003))):
        model.attend(crowd)
        assert [model.mean_s(variant, 1) for variant in (0, 1)] == pytest.approx(expected_s, rel=0.08)
    assert model.crowding(0) == pytest.approx(1.0, rel=0.08)
    assert model.relative(1) == model.crowding(1) == pytest.approx(1.5, rel=0.08)


def test_tables_of_ones_own_are_not_those_of_others() -> None:
    views = small_and_large()
    mine = own_tables(views)
    mine[0].table.stretch(3.0)
    assert mine[0].table.seconds(4) == pytest.approx(3 * views[0].table.seconds(4))
    assert mine[0].table.seconds(50) == pytest.approx(3 * views[0].table.seconds(50))
    assert views[0].table.seconds(1) == pytest.approx(0.001)


def test_the_price_of_a_row_is_that_of_the_batches_there_is_something_to_fill_with() -> None:
    table = LatencyTable((1, 2, 4, 8), (0.004, 0.005, 0.006, 0.008))
    assert table.least_seconds_per_row(1.0, 1) == 0.004
    assert table.least_seconds_per_row(1.0, 3) == pytest.approx(0.0055 / 3)
    assert table.least_seconds_per_row(1.0, 8) == 0.001
    assert table.least_seconds_per_row(1.0, 1, batch_s=0.002) == 0.006
    assert table.least_seconds_per_row(1.0, 8, batch_s=0.002) == pytest.approx(0.010 / 8)


def here_and_elsewhere() -> LatencyModel:
    tables = [LatencyTable((1,), (0.01,)), LatencyTable((1, 2), (0.05, 0.06))]
    return LatencyModel(tables, prior_residuals=(1.0,), elsewhere=(1,))


def test_a_suspended_variant_takes_for_ever() -> None:
    model = here_and_elsewhere()
    for variant in (0, 1):
        model.suspend(variant)
        assert model.mean_s(variant, 1) == math.inf
        assert model.met_probability(model.mean_s(variant, 1), 1e9) == 0.0
        assert model.suspended == {variant}
        model.resume(variant)
        assert model.mean_s(variant, 1) == pytest.approx((0.01, 0.05)[variant])
    assert not model.suspended


def test_what_runs_elsewhere_teaches_nothing_about_this_host() -> None:
    model = here_and_elsewhere()
    for _ in range(50):
        model.observe(1, 1, 0.5)
    assert (model.slowdown, model.quantile_ratio(0.9)) == (1.0, 1.0)
    assert model.mean_s(0, 1) == 0.01
    assert model.mean_s(1, 1) > 0.3
    assert model.relative(1) == pytest.approx(model.mean_s(1, 1) / 0.05)
    for _ in range(50):
        model.observe(0, 1, 0.02)
    assert model.slowdown > 1.5
    assert model.mean_s(1, 1) == pytest.approx(0.5, rel=0.2)


def test_most_answers_from_elsewhere_come_within_what_is_predicted() -> None:
    model = here_and_elsewhere()
    noise = random.Random(3)
    within = []
    for _ in range(4000):
        seconds = 0.05 * noise.lognormvariate(0.7, 0.4)
        within.append(seconds <= model.mean_s(1, 1))
        model.observe(1, 1, seconds)
    assert sum(within[1000:]) / 3000 == pytest.approx(0.9, abs=0.03)


def test_a_probe_says_how_long_it_takes_now() -> None:
    model = here_and_elsewhere()
    model.suspend(1)
    model.observe(1, 1, 9.0)
    assert model.mean_s(1, 1) == math.inf, "a late answer does not bring it back"
    model.resume(1, 3.0)
    assert model.mean_s(1, 2) == pytest.approx(0.18)


def test_news_is_what_differs_from_what_could_be_known() -> None:
    model = LatencyModel([LatencyTable((1,), (0.01,))], prior_residuals=(1.0,))
    assert model.observe(0, 1, 0.03, expected_s=0.03) == pytest.approx(1.0)
    assert model.slowdown == pytest.approx(1.0)
