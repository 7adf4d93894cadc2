import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.outcome import Account, Outcome


def test_an_account_of_nothing() -> None:
    account = Account()
    assert (account.attainment, account.effective_accuracy) == (1.0, 0.0)


def test_only_what_is_met_counts() -> None:
    account = Account()
    account.add(Outcome.MET, 3, 0.9)
    for outcome in set(Outcome) - {Outcome.MET}:
        account.add(outcome, 1, 0.9)
    assert account.arrived == 8
    assert account.attainment == pytest.approx(3 / 8)
    assert account.effective_accuracy == pytest.approx(2.7 / 8)


@given(st.lists(st.tuples(st.sampled_from(Outcome), st.integers(1, 9), st.floats(0, 1))))
def test_effective_accuracy_never_passes_attainment(ends: list[tuple[Outcome, int, float]]) -> None:
    account = Account()
    for outcome, rows, accuracy in ends:
        account.add(outcome, rows, accuracy)
    assert account.arrived == sum(rows for _, rows, _ in ends)
    assert 0 <= account.effective_accuracy <= account.attainment + 1e-9 <= 1 + 1e-9


def test_outcomes_are_their_own_labels() -> None:
    assert [str(outcome) for outcome in Outcome] == ["met", "late", "rejected", "expired", "cancelled", "failed"]
