import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.shares import WINDOW_S, Shares

END_S = 10.0


def pool(*, workers: int = 2, **models: tuple[float, float, float]) -> Shares[str]:
    """Models with (weight, need, use), the last two as shares of the pool, kept up until `END_S`."""
    shares: Shares[str] = Shares()
    for model, (weight, _, _) in models.items():
        shares.add(model, weight)
    for step in range(int(END_S * 100) + 1):
        for model, (_, need, used) in models.items():
            shares.asked(model, 0.01 * need * workers, workers, step / 100)
            shares.charge(model, 0.01 * used * workers, workers, step / 100)
    return shares


def near(*values: float) -> object:
    return pytest.approx(values, abs=0.02)


def test_a_model_alone_has_everything() -> None:
    shares = pool(a=(1, 3, 1))
    assert shares.of("a", END_S) == (1.0, 1.0)
    assert shares.counted("a", END_S, (3.0, 1.0, 2.0), contended=True) == ((3.0, 1.0, 2.0), 1.0)


def test_others_that_need_nothing_take_nothing() -> None:
    assert pool(a=(1, 2, 1), b=(5, 0, 0)).of("a", END_S) == (1.0, 1.0)


def test_what_others_do_not_need_is_ours_to_promise_and_to_spend() -> None:
    assert pool(a=(1, 0.9, 0.9), b=(1, 0.1, 0.1)).of("a", END_S) == near(0.9, 0.9)


def test_what_others_spend_on_accuracy_is_not_their_need() -> None:
    assert pool(a=(1, 0.3, 0.3), b=(1, 0.2, 0.7)).of("a", END_S) == near(0.8, 0.8)


def test_in_an_overload_each_has_its_part_by_weight() -> None:
    shares = pool(a=(1, 2, 0.25), b=(3, 2, 0.75))
    assert shares.of("a", END_S) == near(0.25, 0.25)
    assert shares.of("b", END_S) == near(0.75, 0.75)


def test_a_model_below_its_part_spends_no_more_than_it_needs_while_another_lacks() -> None:
    shares = pool(a=(1, 0.2, 0.2), b=(1, 3, 0.8))
    assert shares.of("a", END_S) == near(0.5, 0.2)
    assert shares.of("b", END_S) == near(0.8, 0.8)


def test_what_was_needed_is_forgotten() -> None:
    shares = pool(a=(1, 0.1, 0.1), b=(1, 2, 0.9))
    assert shares.of("a", END_S + 30 * WINDOW_S) == (1.0, 1.0)


def test_a_model_that_left_counts_no_more() -> None:
    shares = pool(a=(1, 0.1, 0.1), b=(1, 2, 0.9))
    shares.remove("b")
    assert shares.of("a", END_S) == (1.0, 1.0)


def test_the_workers_counted_on_are_those_free_first() -> None:
    shares = pool(a=(1, 2, 0.5), b=(1, 2, 0.5))
    free_at_s, share = shares.counted("a", END_S, (10.5, 10.2), contended=True)
    assert (free_at_s, share) == ((10.5,), pytest.approx(1.0))
    free_at_s, share = shares.counted("a", END_S, (10.5, 10.2, 10.9), contended=True)
    assert free_at_s == (10.5, 10.2)
    assert share == pytest.approx(0.75)  # one and a half workers


def test_while_nobody_else_waits_nothing_is_saved_for_others() -> None:
    shares = pool(a=(1, 0.01, 0.01), b=(1, 3, 0.9))
    assert shares.counted("a", END_S, (10.0, 10.0), contended=True)[1] < 0.1
    assert shares.counted("a", END_S, (10.0, 10.0), contended=False)[1] == 1.0


def test_deadlines_decide_until_somebody_took_more_than_its_part() -> None:
    fresh: Shares[str] = Shares()
    fresh.add("a")
    fresh.add("b")
    assert fresh.order([(2.0, "a"), (1.0, "b")], 0.0) == ["b", "a"]
    greedy = pool(a=(1, 0.5, 0.1), b=(1, 3, 0.9))
    assert greedy.order([(2.0, "a"), (1.0, "b")], END_S) == ["a", "b"]
    assert greedy.order([(1.0, "b")], END_S) == ["b"]


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 3)), min_size=1, max_size=5),
    st.integers(1, 8),
)
def test_parts_by_weight_are_always_there_and_nothing_is_wasted(
    models: list[tuple[float, float]], workers: int
) -> None:
    shares: Shares[int] = Shares()
    for number, (weight, _) in enumerate(models):
        shares.add(number, weight)
    for number, (_, need) in enumerate(models):
        shares.asked(number, need * workers * WINDOW_S, workers, 0.0)
    total_weight = sum(weight for weight, _ in models)
    for number, (weight, _) in enumerate(models):
        promised, spent = shares.of(number, 0.0)
        assert weight / total_weight - 1e-9 <= promised <= 1.0
        assert spent <= promised + 1e-9
        free_at_s, share = shares.counted(number, 0.0, tuple(float(at) for at in range(workers)), contended=True)
        assert 1 <= len(free_at_s) <= workers
        assert len(free_at_s) * share <= max(1.0, spent * workers) + 1e-9
    needed = sum(min(need, 1.0) for _, need in models)
    if needed >= 1.0 and len(models) > 1:
        assert sum(shares.of(number, 0.0)[0] for number in range(len(models))) >= 1.0 - 1e-9
