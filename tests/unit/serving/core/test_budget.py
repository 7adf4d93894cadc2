import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving.core.budget import ROUNDING, RequestBudget, eligible_variants
from serving.core.errors import Infeasible, Unavailable, UnknownModel
from serving.core.fleet import VariantView
from serving.core.request import Eligibility
from tests.support.views import budgets, families, small_and_large, view

FAMILY = (*small_and_large(), view(2, 0.8, (4, 8, 16, 32), energy_mj=3.0))
"""1 ms at 0.6, 10 ms at 0.9, 4 ms at 0.8."""

NEAREST = re.compile(
    r"nearest feasible(?: (?P<what>latency_budget_ms|max_energy_mj))? is (?P<value>[0-9.e+-]+) \(variant 'v\d'\)"
)

HAIR = 1 + 1e-9
"""The last bit of a float may speak against a budget that is met exactly."""


def allowed(rows: int = 1, **budget: object) -> Eligibility:
    return eligible_variants(RequestBudget(**{"latency_s": 1.0, **budget}), rows, FAMILY, "m")  # type: ignore[arg-type]


def test_a_generous_budget_allows_all_cheapest_first() -> None:
    found = allowed()
    assert (found.variants, found.best, found.reason) == ((0, 2, 1), 1, "most_accurate")


def test_the_latency_budget_counts_all_rows() -> None:
    assert allowed(latency_s=0.010).variants == (0, 2, 1)
    assert allowed(rows=2, latency_s=0.010).variants == (0, 2)
    assert allowed(rows=4, latency_s=0.010).variants == (0,)


def test_a_budget_that_rules_out_the_best_says_so() -> None:
    found = allowed(latency_s=0.005)
    assert (found.variants, found.best, found.reason) == ((0, 2), 2, "budget")


def test_floors() -> None:
    assert allowed(min_accuracy=0.8).variants == (2, 1)
    assert allowed(min_accuracy=0.9).variants == (1,)
    assert allowed(max_energy_mj=2.9).variants == (0, 1)
    assert allowed(rows=2, max_energy_mj=6.0).variants == (0, 2, 1)


def test_preferences_leave_one() -> None:
    fastest = allowed(prefer="latency", min_accuracy=0.7)
    assert (fastest.variants, fastest.best, fastest.reason) == ((2,), 2, "prefer_latency")
    costly = tuple(replace(v, energy_mj_per_row=9.0 - v.index) for v in FAMILY)
    budget = RequestBudget(latency_s=1.0, prefer="energy")
    frugal = eligible_variants(budget, 1, costly, "m")
    assert (frugal.variants, frugal.best, frugal.reason) == ((2,), 2, "prefer_energy")


def test_a_pinned_variant_is_the_callers_word() -> None:
    found = allowed(variant="v0")
    assert (found.variants, found.best, found.reason) == ((0,), 0, "pinned")


def test_a_pinned_variant_that_does_not_exist() -> None:
    with pytest.raises(UnknownModel) as caught:
        allowed(variant="v7")
    assert str(caught.value) == "model 'm' has no variant 'v7'; it has: v0, v1, v2"


def test_of_equally_accurate_variants_the_cheapest_is_the_best() -> None:
    twins = (view(0, 0.9, (8,)), view(1, 0.9, (2,)))
    assert eligible_variants(RequestBudget(1.0), 1, twins, "m").best == 1


def test_unknown_accuracy_cannot_be_promised_but_is_served() -> None:
    unknown = (view(0, None, (1,)),)
    assert eligible_variants(RequestBudget(1.0), 1, unknown, "m").reason == "most_accurate"
    with pytest.raises(Infeasible) as caught:
        eligible_variants(RequestBudget(1.0, min_accuracy=0.1), 1, unknown, "m")
    assert str(caught.value) == "the accuracy of model 'm' is not known: min_accuracy cannot be promised"


@pytest.mark.parametrize(
    ("rows", "budget", "text"),
    [
        (
            1,
            RequestBudget(0.0005),
            (
                "model 'm' cannot answer 1 row(s) within 0.5 ms under this budget: "
                "the nearest feasible latency_budget_ms is 1 (variant 'v0')"
            ),
        ),
        (
            1,
            RequestBudget(1.0, min_accuracy=0.95),
            "no variant of model 'm' reaches min_accuracy 0.95: the nearest feasible is 0.9 (variant 'v1')",
        ),
        (
            2,
            RequestBudget(1.0, max_energy_mj=5.0, variant="v2"),
            "no variant of model 'm' answers 2 row(s) for 5 mJ: the nearest feasible max_energy_mj is 6 (variant 'v2')",
        ),
    ],
)
def test_what_cannot_be_met_names_the_nearest_that_can(rows: int, budget: RequestBudget, text: str) -> None:
    with pytest.raises(Infeasible) as caught:
        eligible_variants(budget, rows, FAMILY, "m")
    assert str(caught.value) == text


def test_a_latency_budget_that_is_named_is_met_to_the_last_bit() -> None:
    family = (view(0, 0.5, (6, 6, 7)),)  # three rows: half way between 6 and 7 ms
    assert refusal_of(family, RequestBudget(0.001), 3) == (
        "model 'm' cannot answer 3 row(s) within 1 ms under this budget: "
        "the nearest feasible latency_budget_ms is 6.5 (variant 'v0')"
    )
    assert refusal_of(family, RequestBudget(6.5 / 1e3), 3) is None


def test_an_accuracy_that_is_named_is_reached() -> None:
    family = (view(0, 2 / 3, (1,)),)
    refusal = refusal_of(family, RequestBudget(1.0, min_accuracy=0.9), 1)
    assert refusal is not None
    said = NEAREST.search(refusal)
    assert said is not None
    assert refusal_of(family, RequestBudget(1.0, min_accuracy=float(said["value"])), 1) is None


def refusal_of(family: tuple[VariantView, ...], budget: RequestBudget, rows: int) -> str | None:
    try:
        eligible_variants(budget, rows, family, "m")
    except Infeasible as error:
        return str(error)
    return None


@given(families(), budgets(), st.integers(1, 12), st.floats(1.0, 1.3))
def test_the_nearest_feasible_budget_is_feasible(
    family: tuple[VariantView, ...], budget: RequestBudget, rows: int, odd: float
) -> None:
    """A caller who sends back what the message names gets further each time, and is served in the end."""
    family = tuple(replace(v, energy_mj_per_row=v.energy_mj_per_row * odd) for v in family)
    for _ in range(3):  # at most once each for accuracy, energy and latency
        refusal = refusal_of(family, budget, rows)
        if refusal is None:
            return
        said = NEAREST.search(refusal)
        assert said, refusal
        value = float(said["value"])
        match said["what"]:
            case "latency_budget_ms":
                assert value / 1e3 >= budget.latency_s
                budget = replace(budget, latency_s=value / 1e3 * HAIR)
            case "max_energy_mj":
                budget = replace(budget, max_energy_mj=value * HAIR)
            case _:
                budget = replace(budget, min_accuracy=value)
    assert refusal_of(family, budget, rows) is None


@given(families(), budgets(), st.integers(1, 12))
def test_what_is_allowed_meets_the_budget_and_nothing_is_left_out(
    family: tuple[VariantView, ...], budget: RequestBudget, rows: int
) -> None:
    fits = {
        v.index
        for v in family
        if v.table.seconds(rows) <= budget.latency_s * (1 + ROUNDING)
        and (budget.min_accuracy is None or v.accuracy >= budget.min_accuracy)
        and (budget.max_energy_mj is None or v.energy_mj_per_row * rows <= budget.max_energy_mj)
    }
    try:
        found = eligible_variants(budget, rows, family, "m")
    except Infeasible:
        assert not fits
        return
    times = [family[index].table.seconds(rows) for index in found.variants]
    assert times == sorted(times)
    assert found.best in found.variants
    if budget.prefer == "accuracy":
        assert set(found.variants) == fits
        assert family[found.best].accuracy == max(family[index].accuracy for index in fits)
    else:
        assert len(found.variants) == 1
        assert fits.issuperset(found.variants)


@given(families(), budgets(prefer=False), st.integers(1, 12), st.integers(0, 99), st.integers(0, 60), st.booleans())
def test_a_relaxed_budget_never_allows_less(
    family: tuple[VariantView, ...], budget: RequestBudget, rows: int, more_ms: int, more_mj: int, drop: bool
) -> None:
    assume(refusal_of(family, budget, rows) is None)
    before = eligible_variants(budget, rows, family, "m")
    relaxed = replace(
        budget,
        latency_s=budget.latency_s + more_ms / 1e3,
        max_energy_mj=None if budget.max_energy_mj is None else budget.max_energy_mj + more_mj,
        min_accuracy=None if drop else budget.min_accuracy,
    )
    after = eligible_variants(relaxed, rows, family, "m")
    assert set(before.variants) <= set(after.variants)
    assert family[after.best].accuracy >= family[before.best].accuracy


def edge_and_cloud() -> tuple[VariantView, ...]:
    near, quick, best = view(0, 0.6, (2, 3, 4, 5)), view(1, 0.7, (1, 1, 1, 1)), view(2, 0.9, (8, 9, 10, 11))
    return near, replace(quick, elsewhere=True), replace(best, elsewhere=True)


def test_what_is_promised_runs_here_however_quick_others_are() -> None:
    found = eligible_variants(RequestBudget(latency_s=1.0), 1, edge_and_cloud(), "m")
    assert (found.variants, found.best) == ((0, 1, 2), 2)
    fastest = eligible_variants(RequestBudget(latency_s=1.0, prefer="latency"), 1, edge_and_cloud(), "m")
    assert fastest.variants == (0,)
    only = eligible_variants(RequestBudget(latency_s=0.001), 1, edge_and_cloud(), "m")
    assert only.variants == (1,)


def test_those_away_are_left_out_and_the_reason_says_so() -> None:
    found = eligible_variants(RequestBudget(latency_s=1.0), 1, edge_and_cloud(), "m", frozenset({2}))
    assert (found.variants, found.best, found.reason) == ((0, 1), 1, "unavailable")
    tight = eligible_variants(RequestBudget(latency_s=0.001), 1, edge_and_cloud(), "m", frozenset({2}))
    assert (tight.variants, tight.reason) == ((1,), "budget")


@pytest.mark.parametrize(
    "budget",
    [
        RequestBudget(latency_s=1.0, min_accuracy=0.8),
        RequestBudget(latency_s=1.0, variant="v2"),
    ],
)
def test_what_only_those_away_could_do_is_unavailable(budget: RequestBudget) -> None:
    with pytest.raises(Unavailable, match="only variant 'v2' of model 'm' meets this budget"):
        eligible_variants(budget, 1, edge_and_cloud(), "m", frozenset({2}))


@pytest.mark.parametrize(
    ("budget", "error"),
    [
        (RequestBudget(latency_s=1.0, min_accuracy=0.95), Infeasible),
        (RequestBudget(latency_s=0.0001), Infeasible),
        (RequestBudget(latency_s=1.0, variant="none"), UnknownModel),
    ],
)
def test_what_nobody_could_do_is_refused_as_ever(budget: RequestBudget, error: type[Exception]) -> None:
    with pytest.raises(error):
        eligible_variants(budget, 1, edge_and_cloud(), "m", frozenset({2}))
