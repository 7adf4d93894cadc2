"""What makes each published rule the one it is: small cases that can be worked out on paper."""

import pytest

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.policies.bentoml import BentoMl, least_squares
from serving.core.policies.clipper import Clipper
from serving.core.policies.fixed import Fixed
from serving.core.policies.greedy import MaxAccuracy, MaxBatch
from serving.core.policies.infaas import Infaas
from serving.core.policies.proteus import Proteus, best_mix
from serving.core.policies.slackfit import SlackFit
from serving.core.scheduler import Dispatch, Expire, Policy, Wait
from tests.support.views import choice, exact_model, request, view

SMALL, MIDDLE, LARGE = 0, 1, 2
ANY = choice(SMALL, MIDDLE, LARGE)
VIEWS = (
    view(SMALL, 0.6, (1, 2, 4, 8), knee_rows=4),
    view(MIDDLE, 0.8, (4, 6, 10, 18), knee_rows=8),
    view(LARGE, 0.9, (10, 20, 40, 80), knee_rows=2),
)
IDLE = FleetSnapshot(1, (0.0,), horizon_s=0.02)


@pytest.fixture
def latency() -> LatencyModel:
    return exact_model(VIEWS)


def queue_of(count: int, deadline_ms: float, rows: int = 1) -> EdfQueue:
    queue = EdfQueue()
    for _ in range(count):
        queue.push(request(deadline_ms, ANY, rows=rows), 0.0)
    return queue


def decided(policy: Policy, count: int, deadline_ms: float, fleet: FleetSnapshot = IDLE) -> tuple[int, int]:
    """Variant and rows of the batch the policy forms of so many equal requests."""
    decision = policy.decide(0.0, queue_of(count, deadline_ms), fleet)
    assert isinstance(decision, Dispatch)
    return decision.variant, decision.rows


def test_fixed_fills_up_to_the_knee_or_what_the_slack_allows(latency: LatencyModel) -> None:
    policy = Fixed(VIEWS, latency, "v1")
    assert decided(policy, 20, 100) == (MIDDLE, 8)
    assert decided(policy, 20, 10) == (MIDDLE, 4)
    assert decided(policy, 3, 100) == (MIDDLE, 3)


class TestClipper:
    def test_the_batch_grows_by_a_row_and_shrinks_by_a_tenth(self, latency: LatencyModel) -> None:
        policy = Clipper(VIEWS, latency, "v0")
        assert decided(policy, 20, 100) == (SMALL, 1)
        policy.observe(SMALL, 1, 0.001)
        assert decided(policy, 20, 100) == (SMALL, 2)
        policy.observe(SMALL, 2, 0.021)  # past the usual budget of 20 ms
        assert policy.limit_rows[SMALL] == pytest.approx(1.8)

    def test_a_batch_that_was_not_full_says_nothing(self, latency: LatencyModel) -> None:
        policy = Clipper(VIEWS, latency, "v0")
        policy.limit_rows[SMALL] = 5.0
        decided(policy, 3, 100)
        policy.observe(SMALL, 3, 0.003)
        assert policy.limit_rows[SMALL] == 5.0

    def test_the_heads_slack_cuts_it(self, latency: LatencyModel) -> None:
        policy = Clipper(VIEWS, latency, "v0")
        policy.limit_rows[SMALL] = 8.0
        assert decided(policy, 20, 3) == (SMALL, 3)

    def test_it_grows_no_further_than_was_measured(self, latency: LatencyModel) -> None:
        policy = Clipper(VIEWS, latency, "v0")
        decided(policy, 1, 100)
        for _ in range(50):
            policy.observe(SMALL, 8, 0.001)
        assert policy.limit_rows[SMALL] == 8


class TestInfaas:
    @pytest.mark.parametrize(("floor", "variant"), [(0.0, SMALL), (0.7, MIDDLE), (0.85, LARGE), (0.95, LARGE)])
    def test_the_cheapest_that_meets_the_floor(self, latency: LatencyModel, floor: float, variant: int) -> None:
        assert decided(Infaas(VIEWS, latency, floor), 1, 100) == (variant, 1)

    def test_latency_is_a_line(self, latency: LatencyModel) -> None:
        # 4 ms and 18 ms at 1 and 8 rows: 2 ms + 2 ms a row, so 4 rows take 10 ms.
        assert decided(Infaas(VIEWS, latency, 0.7), 20, 10) == (MIDDLE, 4)

    def test_one_that_is_too_slow_is_passed_over_for_one_that_is_not(self) -> None:
        views = (view(0, 0.6, (1, 2)), view(1, 0.8, (9, 18)), view(2, 0.9, (5, 10)))
        policy = Infaas(views, exact_model(views), 0.7)
        queue = EdfQueue()
        queue.push(request(6, choice(0, 1, 2)), 0.0)
        decision = policy.decide(0.0, queue, IDLE)
        assert isinstance(decision, Dispatch)
        assert decision.variant == 2


class TestSlackFit:
    def test_much_slack_is_spent_on_a_slow_tuple_that_the_queue_cannot_fill(self, latency: LatencyModel) -> None:
        # All buckets lie below 200 ms; the slowest tuple, 80 ms, is a batch of 8 on the large variant.
        assert decided(SlackFit(VIEWS, latency), 1, 200) == (LARGE, 1)
        assert decided(SlackFit(VIEWS, latency), 20, 200) == (LARGE, 8)

    def test_within_the_queue_short_queues_get_small_batches(self, latency: LatencyModel) -> None:
        policy = SlackFit(VIEWS, latency, within_queue=True)
        assert decided(policy, 1, 25) == (LARGE, 1)
        # Four rows in 25 ms: the middle variant's batch of four (10 ms), not the small one's (4 ms).
        assert decided(policy, 4, 15) == (MIDDLE, 4)

    def test_little_slack_gets_the_largest_batch_that_fits(self, latency: LatencyModel) -> None:
        assert decided(SlackFit(VIEWS, latency), 20, 2.1) == (SMALL, 2)
        assert decided(SlackFit(VIEWS, latency), 20, 0.5) == (SMALL, 1)

    def test_a_slow_host_is_counted(self, latency: LatencyModel) -> None:
        for _ in range(200):
            latency.observe(SMALL, 1, 1.9 * latency.mean_s(SMALL, 1))
        assert decided(SlackFit(VIEWS, latency), 20, 2.1) == (SMALL, 1)


class TestGreedy:
    def test_most_rows_first(self, latency: LatencyModel) -> None:
        assert decided(MaxBatch(VIEWS, latency), 20, 18) == (MIDDLE, 8)
        assert decided(MaxBatch(VIEWS, latency), 20, 10) == (SMALL, 8)
        assert decided(MaxBatch(VIEWS, latency), 1, 12) == (LARGE, 1)

    def test_most_accuracy_first(self, latency: LatencyModel) -> None:
        assert decided(MaxAccuracy(VIEWS, latency), 20, 12) == (LARGE, 1)
        assert decided(MaxAccuracy(VIEWS, latency), 20, 9) == (MIDDLE, 3)

    @pytest.mark.parametrize("rule", [MaxBatch, MaxAccuracy])
    def test_what_is_late_anyway_is_got_over_with(
        self, rule: type[MaxBatch] | type[MaxAccuracy], latency: LatencyModel
    ) -> None:
        assert decided(rule(VIEWS, latency), 3, 0.5) == (SMALL, 1)


class TestProteus:
    def test_without_demand_the_most_accurate_answers(self, latency: LatencyModel) -> None:
        policy = Proteus(VIEWS, latency, 1.0)
        policy.decide(0.0, EdfQueue(), IDLE)
        assert list(policy.shares) == [0, 0, 1]

    def test_a_batch_that_is_not_full_waits_for_its_last_moment(self, latency: LatencyModel) -> None:
        # Half of the usual 20 ms: the large variant's batches have one row, the middle one's four.
        views = VIEWS[:2]
        policy = Proteus(views, latency, 1.0)
        queue = EdfQueue()
        for _ in range(2):
            queue.push(request(20, choice(SMALL, MIDDLE)), 0.0)
        assert policy.decide(0.0, queue, IDLE) == Wait(pytest.approx(0.014))
        late = policy.decide(0.014, queue, IDLE)
        assert isinstance(late, Dispatch)
        assert (late.variant, late.rows) == (MIDDLE, 2)

    def test_shares_follow_the_demand_of_the_last_period(self, latency: LatencyModel) -> None:
        policy = Proteus(VIEWS, latency, 1.0)
        for step in range(101):
            policy.decide(step / 100, queue_of(5, 1000 + step * 10), IDLE)  # each serves at least one of five
        # Every hundredth of a second a batch of one on the large variant, which takes as long: just too much.
        assert policy.shares[LARGE] < 1
        assert sum(policy.shares) == pytest.approx(1)

    def test_a_period_too_short_for_the_clock_has_no_demand(self, latency: LatencyModel) -> None:
        policy = Proteus(VIEWS, latency, 1e-18)
        for _ in range(2):
            policy.decide(1.0, queue_of(5, 1000), IDLE)
        assert list(policy.shares) == [0, 0, 1]

    @pytest.mark.parametrize(
        ("price", "shares"),
        [
            (9.0, [0, 0, 1]),
            (4.0, [0, 0, 1]),
            (1.0, [1, 0, 0]),
            (0.5, [1, 0, 0]),
            (1.5, [0.5, 0.5, 0]),
            (3.0, [0, 0.5, 0.5]),
        ],
    )
    def test_the_best_mix(self, price: float, shares: list[float]) -> None:
        assert best_mix([(1.0, 0.6), (2.0, 0.8), (4.0, 0.9)], price) == pytest.approx(shares)

    def test_a_point_below_the_hull_is_not_used(self) -> None:
        assert best_mix([(1.0, 0.6), (2.0, 0.61), (3.0, 0.9)], 2.0) == pytest.approx([0.5, 0, 0.5])


class TestBentoMl:
    def test_it_serves_all_that_waits_whatever_the_deadline(self, latency: LatencyModel) -> None:
        policy = trained(latency, wait_s=0.0)
        assert decided(policy, 5, 6.5) == (MIDDLE, 5)  # 12 ms by the table; but its own line says 5 ms + 1 ms

    def test_a_head_predicted_late_with_all_that_is_queued_is_shed(self, latency: LatencyModel) -> None:
        policy, queue = trained(latency, wait_s=0.0), queue_of(5, 5.5)
        assert policy.decide(0.0, queue, IDLE) == Expire((queue.head,))

    def test_it_waits_in_the_hope_of_more(self, latency: LatencyModel) -> None:
        policy = trained(latency, wait_s=0.01)
        # The newest has waited w: go once 2 * (w + 1 ms + 1 ms) passes 0.95 * 10 ms.
        assert policy.decide(0.0, queue_of(2, 100), IDLE) == Wait(pytest.approx(0.00275))

    def test_the_line_is_drawn_through_what_was_seen(self, latency: LatencyModel) -> None:
        policy = BentoMl(VIEWS, latency, "v1")
        for _ in range(3):
            policy.decide(0.02, queue_of(8, 100), IDLE)
        for rows in (1, 2, 8):
            policy.observe(MIDDLE, rows, 0.002 + 0.003 * rows)
        policy.decide(0.03, queue_of(1, 100), IDLE)
        assert policy._line == pytest.approx((0.003, 0.002))

    def test_least_squares(self) -> None:
        assert least_squares([(1, 3.0), (2, 5.0), (3, 7.0)]) == pytest.approx((2.0, 1.0))
        assert least_squares([(4, 8.5), (4, 8.5)]) == pytest.approx((2.0, 0.5))  # the line of least length
        assert least_squares([(1, 2.0), (2, 1.0)]) == pytest.approx((1e-6, 3.0))  # each cut by itself


def trained(latency: LatencyModel, wait_s: float, variants: tuple[VariantView, ...] = VIEWS) -> BentoMl:
    """A policy whose line is 1 ms + 1 ms a row."""
    policy = BentoMl(variants, latency, "v1")
    policy._line, policy._wait_s = (0.001, 0.001), wait_s
    return policy
