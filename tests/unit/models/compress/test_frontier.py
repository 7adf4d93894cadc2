"""The Pareto set with room for noise."""

from hypothesis import given
from hypothesis import strategies as st

from models.compress.frontier import Rating, dominates, frontier, thinned

ratings = st.lists(
    st.builds(Rating, st.floats(0, 1), st.tuples(st.floats(0.01, 10), st.floats(1e3, 1e7))), min_size=1, max_size=12
)


def test_faster_and_as_good_dominates():
    assert dominates(Rating(0.9, (1.0, 100)), Rating(0.9, (2.0, 100)))
    assert not dominates(Rating(0.9, (2.0, 100)), Rating(0.9, (1.0, 100)))


def test_what_differs_by_less_than_the_noise_does_not_dominate():
    assert not dominates(Rating(0.9, (1.0, 100)), Rating(0.9, (1.02, 101)))
    assert not dominates(Rating(0.9005, (1.0, 100)), Rating(0.9, (1.0, 100)))


def test_a_larger_file_saves_a_candidate_only_where_it_is_better_elsewhere():
    slow_small, fast_large = Rating(0.9, (2.0, 100)), Rating(0.9, (1.0, 200))
    assert frontier([slow_small, fast_large]) == [0, 1]
    assert frontier([slow_small, fast_large, Rating(0.9, (1.0, 100))]) == [2]


def test_of_equals_the_first_stays():
    assert frontier([Rating(0.9, (1.0,)), Rating(0.9, (1.0,)), Rating(0.9, (1.01,))]) == [0]


@given(ratings)
def test_somebody_stays_and_none_of_them_dominates_another(rated):
    kept = frontier(rated)
    assert all(not dominates(rated[a], rated[b]) for a in kept for b in kept)
    # Domination with tolerance is not transitive: a cycle may leave nobody, but never with one candidate.
    assert kept or len(rated) > 1


def test_thinning_keeps_the_ends_and_what_is_asked_for():
    rated = [Rating(0.5 + 0.05 * at, (float(2**at),)) for at in range(8)]
    kept = thinned(rated, 4, always=frozenset({3}))
    assert len(kept) == 4
    assert {0, 3, 7} <= set(kept)


def test_thinning_keeps_to_the_most_when_neither_end_is_asked_for():
    rated = [Rating(0.5 + 0.1 * at, (float(2**at),)) for at in range(3)]
    assert thinned(rated, 2, always=frozenset({1})) == [0, 1]
    assert thinned(rated, 2, always=frozenset({0, 1, 2})) == [0, 1, 2]


def test_thinning_drops_the_member_that_adds_least():
    rated = [Rating(0.80, (1.0,)), Rating(0.801, (1.05,)), Rating(0.85, (2.0,)), Rating(0.9, (4.0,))]
    assert thinned(rated, 3) == [0, 2, 3]
