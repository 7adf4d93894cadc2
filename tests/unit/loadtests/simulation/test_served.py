import pytest

from loadtests.durations import DurationsError
from loadtests.simulation.served import Eligibilities, served_family
from serving.core.budget import RequestBudget
from tests.support.durations import durations_of
from tests.support.gateways import tagged_family
from tests.support.views import scheduler_of

TIMES = {"small": (1, 2, 4, 8), "large": (10, 20, 40, 80)}


def test_the_scheduler_sees_the_medians() -> None:
    served = served_family(tagged_family(), durations_of(TIMES), watts_per_core=5)
    assert [view.table.seconds(2) for view in served.variants] == pytest.approx([0.002, 0.02])
    assert served.watts == pytest.approx((5, 5))
    assert served.row_bytes > 0


def test_a_variant_nobody_measured_is_told() -> None:
    with pytest.raises(DurationsError, match="'large'"):
        served_family(tagged_family(), durations_of({"small": (1,)}))


def test_equal_budgets_share_one_eligibility() -> None:
    kept = Eligibilities(scheduler_of(served_family(tagged_family(), durations_of(TIMES)).variants))
    budgets = [RequestBudget(0.1), RequestBudget(0.1), RequestBudget(0.005)]
    first, second, tight = (kept.of(budget, 1) for budget in budgets)
    assert first is second
    assert tight is not None
    assert tight.variants == (0,)


def test_what_no_variant_can_meet_is_none() -> None:
    kept = Eligibilities(scheduler_of(served_family(tagged_family(), durations_of(TIMES)).variants))
    assert kept.of(RequestBudget(0.0001), 1) is None
    assert kept.of(RequestBudget(0.1, variant="huge"), 1) is None


def test_budgets_are_read_again_when_the_scheduler_has_relearnt_a_table() -> None:
    scheduler = scheduler_of(served_family(tagged_family(), durations_of(TIMES)).variants)
    kept, budget = Eligibilities(scheduler), RequestBudget(0.015)
    before = kept.of(budget, 1)
    for _ in range(40):
        scheduler.observe(0, 1, 0.001, 0.0)
        scheduler.observe(1, 1, 0.030, 0.0)
    after = kept.of(budget, 1)
    assert before is not None
    assert after is not None
    assert (before.variants, after.variants) == ((0, 1), (0,))
