from dataclasses import replace
from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.admission import Admitted, Rejected
from serving.core.budget import RequestBudget
from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.request import Eligibility, Reason, Request
from serving.core.scheduler import (
    OVERHEAD_STEP_S,
    RATE_BUDGETS,
    RATE_WINDOW_S,
    REFUSING_S,
    Decision,
    Dispatch,
    Expire,
    Scheduler,
    SchedulerOptions,
    Wait,
    crowd_of,
)
from tests.support.views import Arrival, Classes, choice, families, request, scheduler_of, small_and_large, view

SMALL, LARGE = 0, 1
BOTH = choice(SMALL, LARGE)
NOW = (0.0,)


class Scripted:
    """A policy that decides what it is told and keeps what it was shown."""

    def __init__(self) -> None:
        self.next: Decision = Wait()
        self.seen: list[FleetSnapshot] = []

    def __call__(self, variants: tuple[VariantView, ...], latency: LatencyModel) -> "Scripted":
        return self

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        self.seen.append(fleet)
        return self.next


def scripted(options: SchedulerOptions | None = None) -> tuple[Scheduler, Scripted]:
    policy = Scripted()
    return Scheduler(small_and_large(), policy, options), policy


def queued(scheduler: Scheduler, *requests: Request) -> None:
    for each in requests:
        assert scheduler.offer(each, each.arrival_s, NOW) == Admitted()


def test_what_is_admitted_is_queued_and_what_is_refused_is_not() -> None:
    scheduler = scheduler_of(small_and_large(), exact=True)
    taken, refused = request(1, choice(SMALL)), request(1, choice(SMALL))
    assert scheduler.offer(taken, 0.0, NOW) == Admitted()
    assert scheduler.offer(refused, 0.0, NOW) == Rejected("work", pytest.approx(0.001))
    assert list(scheduler.queue) == [taken]


def test_what_is_dispatched_or_expired_has_left_the_queue() -> None:
    scheduler, policy = scripted()
    first, second, third = (request(100, BOTH) for _ in range(3))
    queued(scheduler, first, second, third)
    policy.next = Dispatch(SMALL, (second,), 1, 0.001)
    assert scheduler.decide(0.0, 1, NOW) == policy.next
    assert list(scheduler.queue) == [first, third]
    policy.next = Expire((first,))
    scheduler.decide(0.0, 1, NOW)
    policy.next = Wait(5.0)
    assert scheduler.decide(0.0, 1, NOW) == Wait(5.0)
    assert list(scheduler.queue) == [third]


def test_expiry_is_told() -> None:
    scheduler = scheduler_of(small_and_large())
    late = request(5, BOTH)
    queued(scheduler, late)
    assert scheduler.decide(0.0, 0, (0.001,)) == Wait(pytest.approx(0.004, abs=0.0005))
    assert scheduler.decide(0.0045, 0, (0.0045,)) == Expire((late,))
    assert not scheduler.cancel(late)


def test_cancelling_leaves_the_queue_once() -> None:
    scheduler = scheduler_of(small_and_large())
    gone = request(50, BOTH)
    queued(scheduler, gone)
    assert scheduler.cancel(gone)
    assert not scheduler.cancel(gone)
    assert scheduler.decide(0.0, 1, NOW) == Wait(inf)


def test_the_policy_is_told_of_workers_load_and_overhead() -> None:
    scheduler, policy = scripted(SchedulerOptions(batch_overhead_s=0.0007))
    queued(scheduler, request(200, BOTH), request(200, BOTH, rows=3))
    scheduler.observe_overhead(0.0001)
    scheduler.decide(0.0, 1, (0.0, 0.5))
    (seen,) = policy.seen
    assert (seen.idle, seen.free_at_s, seen.batch_overhead_s) == (1, (0.0, 0.5), 0.0007)
    assert seen.arrival_rate == pytest.approx(3 / (0.2 / RATE_BUDGETS))
    assert seen.horizon_s == pytest.approx(0.2)
    assert seen.overhead_s == scheduler.overhead_s > 0


def test_workers_that_wait_for_their_next_batch_leave_less_room() -> None:
    quick, slow = scheduler_of(small_and_large()), scheduler_of(small_and_large())
    for _ in range(500):
        slow.observe_hand_over(0.006)
    assert slow.hand_over_s == pytest.approx(0.006, rel=0.01)
    slow.observe_hand_over(1.0)
    assert slow.hand_over_s < 0.007, "a single stall is no habit"
    quick.observe_hand_over(-0.006)
    assert quick.hand_over_s == 0
    asked = [request(20, BOTH, rows=4) for _ in range(100)]
    let_in = [sum(isinstance(s.offer(each, 0.0, NOW), Admitted) for each in asked) for s in (quick, slow)]
    assert let_in[0] > 1.5 * let_in[1] > 0, let_in


def test_an_erratic_overhead_leaves_more_room_behind_others_and_a_steady_one_does_not() -> None:
    def taken(*overheads_s: float) -> int:
        scheduler = scheduler_of(small_and_large(), exact=True)
        for overhead_s in overheads_s * 200:
            scheduler.observe_overhead(overhead_s)
        scheduler.overhead_s = 0.001
        asked = [request(100, BOTH) for _ in range(200)]
        return sum(isinstance(scheduler.offer(each, 0.0, NOW), Admitted) for each in asked)

    steady, erratic, wild = taken(0.001), taken(0.0, 0.002), taken(0.0, 1.0)
    assert steady > erratic > wild > 0.85 * steady, "never more than a tenth of the budget"


def test_the_arrival_rate_converges_and_fades() -> None:
    scheduler, policy = scripted()
    at_s = 0.0
    for _ in range(1000):
        at_s += 0.01
        each = request((at_s + 1.0) * 1e3, BOTH, rows=2, arrival_ms=at_s * 1e3)
        scheduler.offer(each, at_s, (at_s,))
        scheduler.cancel(each)
    scheduler.decide(at_s, 1, (at_s,))
    scheduler.decide(at_s + RATE_WINDOW_S[1], 1, (at_s,))
    assert policy.seen[0].arrival_rate == pytest.approx(200, rel=0.02)
    assert policy.seen[1].arrival_rate == pytest.approx(policy.seen[0].arrival_rate / exp(1), rel=1e-3)
    assert policy.seen[0].horizon_s == pytest.approx(1.0)


def test_the_rate_is_right_from_the_first_budgets_on() -> None:
    scheduler, policy = scripted()
    for number in range(40):  # 2 rows each 5 ms, for two budgets
        each = request(number * 5 + 100, BOTH, rows=2, arrival_ms=number * 5)
        scheduler.offer(each, number / 200, (0.0,))
        scheduler.cancel(each)
    scheduler.decide(0.2, 1, (0.2,))
    assert policy.seen[0].arrival_rate == pytest.approx(400, rel=0.05)


def test_a_stall_moves_the_overhead_by_a_step_only() -> None:
    scheduler = scheduler_of(small_and_large())
    scheduler.observe_overhead(10.0)
    assert scheduler.overhead_s <= OVERHEAD_STEP_S
    for _ in range(500):
        scheduler.observe_overhead(0.002)
    assert scheduler.overhead_s == pytest.approx(0.002, rel=0.01)


def test_observing_returns_observed_over_predicted() -> None:
    scheduler = scheduler_of(small_and_large())
    assert scheduler.observe(SMALL, 2, 0.003, 1.0) == pytest.approx(1.5)
    assert scheduler.latency.slowdown > 1


def test_a_quiet_gateway_forgets_the_noise_of_an_overload() -> None:
    scheduler, _ = scripted()
    for at in range(300):  # small batches that now and then take ten times as long
        scheduler.observe(0, 1, 0.01 if at % 4 == 0 else 0.001, at / 100)
    assert scheduler.latency.quantile_ratio(0.9) > 4
    busy = scheduler.latency.quantile_ratio(0.9)
    scheduler.observe(0, 1, 0.001, 3.5)
    assert scheduler.latency.quantile_ratio(0.9) == pytest.approx(busy, rel=0.3)  # half a second is no pause
    for at in range(6):
        scheduler.observe(0, 1, 0.001, 10.0 + 2 * at)
    assert scheduler.latency.quantile_ratio(0.9) < 1.5


@pytest.mark.parametrize(
    ("answered", "budget_ms", "reason", "expected"),
    [
        (LARGE, 100, "most_accurate", "most_accurate"),
        (LARGE, 100, "pinned", "pinned"),
        (SMALL, 100, "most_accurate", "load"),
        (SMALL, 11, "most_accurate", "budget"),  # the large one takes 10 ms, and more than 11 now and then
    ],
)
def test_explain(answered: int, budget_ms: float, reason: Reason, expected: Reason) -> None:
    scheduler = scheduler_of(small_and_large())
    assert scheduler.explain(request(budget_ms, choice(SMALL, LARGE, reason=reason)), answered) == expected


@pytest.mark.parametrize("reason", ["budget", "prefer_latency", "prefer_energy"])
def test_explain_what_the_budget_itself_decided(reason: Reason) -> None:
    scheduler = scheduler_of(small_and_large())
    assert scheduler.explain(request(100, choice(SMALL, reason=reason)), SMALL) == reason


def test_explain_counts_the_overhead() -> None:
    scheduler = scheduler_of(small_and_large(), exact=True)
    assert scheduler.explain(request(11, BOTH), SMALL) == "load"
    for _ in range(200):
        scheduler.observe_overhead(0.002)
    assert scheduler.explain(request(11, BOTH), SMALL) == "budget"


def overloaded() -> Scheduler:
    """Forty milliseconds of work that is all due in forty."""
    scheduler = scheduler_of(small_and_large(), exact=True)
    queued(scheduler, *(request(40, choice(SMALL)) for _ in range(40)))
    return scheduler


def test_a_refused_request_leads_to_turning_away_unread() -> None:
    scheduler = overloaded()
    assert not scheduler.refusing(0.0)
    assert scheduler.offer(request(40, BOTH), 0.0, NOW) != Admitted()
    assert scheduler.refusing(0.0)
    assert scheduler.refusing(REFUSING_S)
    assert not scheduler.refusing(REFUSING_S * 1.01)
    refused = scheduler.turn_away(0.0, 0.040, 0.0, NOW)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(0.001)
    assert scheduler.turn_away(0.0, 0.039, 0.0, NOW) == refused
    assert scheduler.turn_away(0.0, 0.050, 0.0, NOW) is None


def test_a_budget_that_load_is_not_to_blame_for_is_read_and_told() -> None:
    scheduler = scheduler_of(small_and_large(), exact=True)
    assert scheduler.turn_away(0.0, 0.0005, 0.0, NOW) is None
    assert scheduler.offer(request(0.5, BOTH), 0.0, NOW) == Rejected("budget", pytest.approx(0.0005))
    assert not scheduler.refusing(0.0)


def test_the_least_budget_counts_the_way_to_the_door_and_back() -> None:
    scheduler = scheduler_of(small_and_large(), exact=True)
    lone = request(100, BOTH, rows=2)
    assert scheduler.least_s(lone) == pytest.approx(0.002)
    for number in range(300):
        # Received 0.4 ms before it stands at the door of an idle gateway.
        each = request(number + 100, BOTH, arrival_ms=number)
        scheduler.offer(each, number / 1e3 + 0.0004, (0.0,))
        scheduler.cancel(each)
        scheduler.observe_overhead(0.0003)
    assert scheduler.least_s(lone) == pytest.approx(0.0027, rel=0.01)


def test_done_or_dropped_work_opens_the_door_again() -> None:
    scheduler = overloaded()
    assert scheduler.turn_away(0.0, 0.040, 0.0, NOW) is not None
    scheduler.cancel(scheduler.queue.head)
    assert scheduler.turn_away(0.0, 0.040, 0.0, NOW) is None


def without_floors(family: tuple[VariantView, ...]) -> Eligibility:
    allowed = Classes(family).of(Arrival(0.0, 1, RequestBudget(latency_s=1000.0)))
    assert allowed is not None
    return allowed


@given(families(), st.lists(st.integers(1, 60), max_size=30), st.integers(1, 60), st.integers(1, 2))
def test_turning_away_agrees_with_the_door(
    family: tuple[VariantView, ...], queued_ms: list[int], budget_ms: int, workers: int
) -> None:
    """For one row without floors."""
    scheduler, free_at_s, allowed = scheduler_of(family), (0.0,) * workers, without_floors(family)
    for deadline_ms in queued_ms:
        scheduler.offer(request(deadline_ms, allowed), 0.0, free_at_s)
    turned_away = scheduler.turn_away(0.0, budget_ms / 1e3, 0.0, free_at_s)
    verdict = scheduler.offer(request(budget_ms, allowed), 0.0, free_at_s)
    assert (turned_away is not None) == (isinstance(verdict, Rejected) and verdict.cause == "work")


@given(families(), st.lists(st.integers(1, 60), max_size=30), st.integers(1, 2))
def test_what_is_remembered_of_a_refusal_turns_nobody_away_wrongly(
    family: tuple[VariantView, ...], budgets_ms: list[int], workers: int
) -> None:
    """At one moment and with batches of one: there, less time is never easier to grant.

    With larger batches it may be, now and then: an earlier deadline can change who shares a batch with whom.
    """
    family = tuple(replace(v, knee_rows=1) for v in family)
    scheduler, free_at_s, allowed = scheduler_of(family), (0.0,) * workers, without_floors(family)
    for budget_ms in budgets_ms:
        turned_away = scheduler.turn_away(0.0, budget_ms / 1e3, 0.0, free_at_s)
        verdict = scheduler.offer(request(budget_ms, allowed), 0.0, free_at_s)
        if turned_away is not None:
            assert isinstance(verdict, Rejected)


def test_a_closed_door_begins_to_doubt_what_closed_it() -> None:
    scheduler = scheduler_of(small_and_large())
    for _ in range(50):
        scheduler.observe(SMALL, 1, 1.0, 0.0)  # a bad moment: everything took a thousand times as long
    refused = [request(50 + at_ms, BOTH, arrival_ms=at_ms) for at_ms in range(0, 6000, 100)]
    verdicts = [scheduler.offer(each, each.arrival_s, (each.arrival_s,)) for each in refused]
    assert isinstance(verdicts[0], Rejected)
    assert verdicts[0].cause == "budget"
    assert Admitted() in verdicts


def edge_and_cloud() -> tuple[VariantView, ...]:
    """Two that run here, and a better one elsewhere."""
    return (*small_and_large(), replace(view(2, 0.95, (5, 6, 7, 8)), elsewhere=True))


ALL = choice(0, 1, 2)


def test_a_suspended_variant_is_not_chosen_until_it_is_resumed() -> None:
    scheduler = scheduler_of(edge_and_cloud(), exact=True)

    def chosen(now_s: float) -> int:
        away = scheduler.latency.suspended
        allowed = choice(*(v for v in (0, 1, 2) if v not in away))
        assert isinstance(
            scheduler.offer(request(now_s * 1e3 + 500, allowed, arrival_ms=now_s * 1e3), now_s, [now_s]), Admitted
        )
        decision = scheduler.decide(now_s, 1, [now_s])
        assert isinstance(decision, Dispatch)
        return decision.variant

    assert chosen(0.0) == 2
    assert scheduler.suspend(2) == []
    assert chosen(1.0) == 1
    scheduler.resume(2, 2.0)
    assert chosen(2.0) == 2
    assert scheduler.latency.mean_s(2, 1) == pytest.approx(0.01)


def test_what_waits_goes_on_without_the_suspended_variant() -> None:
    scheduler = scheduler_of(edge_and_cloud(), exact=True)
    both, only = request(500, ALL), request(400, choice(2, reason="pinned"))
    for each in (both, only):
        assert isinstance(scheduler.offer(each, 0.0, [0.0]), Admitted)
    assert scheduler.suspend(2) == [only]
    assert list(scheduler.queue) == [both]
    assert (both.eligibility.variants, both.eligibility.best, both.eligibility.reason) == ((0, 1), 1, "unavailable")
    decision = scheduler.decide(0.0, 1, [0.0])
    assert isinstance(decision, Dispatch)
    assert (decision.variant, decision.requests) == (1, (both,))
    assert scheduler.explain(both, 1) == "unavailable"


def test_an_answer_that_was_under_way_says_why_it_was_not_better() -> None:
    scheduler = scheduler_of(edge_and_cloud(), exact=True)
    taken = request(500, ALL)
    assert scheduler.explain(taken, 0) == "load"
    scheduler.suspend(2)
    assert scheduler.explain(taken, 0) == "unavailable"


def test_what_came_back_queues_by_its_deadline_again() -> None:
    scheduler = scheduler_of(edge_and_cloud(), exact=True)
    first, second = request(100, ALL), request(300, ALL)
    for each in (second, first):
        scheduler.offer(each, 0.0, [0.0])
    taken = scheduler.decide(0.0, 1, [0.0])
    assert isinstance(taken, Dispatch)
    later = request(200, ALL)
    scheduler.offer(later, 0.0, [0.0])
    pinned = request(100, choice(2, reason="pinned"))
    assert scheduler.give_back([*taken.requests, pinned], 2) == [pinned]
    assert [each.deadline_s for each in scheduler.queue] == sorted(each.deadline_s for each in scheduler.queue)
    assert set(taken.requests) <= set(scheduler.queue)
    assert all(2 not in each.eligibility.variants for each in taken.requests)
    assert later.eligibility is ALL, "others may still try"


def test_the_door_counts_on_nothing_that_is_away() -> None:
    variants = (view(0, 0.6, (10, 20, 40, 80)), replace(view(1, 0.9, (1, 1, 1, 1)), elsewhere=True))
    scheduler = scheduler_of(variants, exact=True)
    assert scheduler._anyone.variants == (0, 1)
    scheduler.suspend(1)
    assert scheduler._anyone.variants == (0,)
    scheduler.resume(1)
    assert scheduler._anyone.variants == (0, 1)


def test_a_crowd_is_what_a_batch_finds_that_starts_next() -> None:
    assert crowd_of((0.0, 0.0, 0.0), 1.0) == 0.0
    assert crowd_of((0.0, 2.0, 0.5), 1.0) == 0.5
    assert crowd_of((0.0, 2.0, 3.0), 1.0) == crowd_of((2.0, 2.0, 3.0), 1.0) == 1.0
    assert crowd_of((2.0,), 1.0) == 0.0


def test_decisions_expect_what_a_batch_takes_beside_as_many_others() -> None:
    scheduler = scheduler_of(small_and_large())
    for turn in range(2000):  # on a full host the large one takes half as long again
        full = turn % 2
        scheduler.observe(SMALL, 1, 0.001, 0.0, crowd=full)
        scheduler.observe(LARGE, 1, 0.015 if full else 0.010, 0.0, crowd=full)
    expected_ms = []
    for free_at_s in ((0.0, 0.0), (0.0, 5.0)):
        scheduler.offer(request(100, choice(LARGE)), 0.0, free_at_s)
        decision = scheduler.decide(0.0, 1, free_at_s)
        assert isinstance(decision, Dispatch)
        expected_ms.append(decision.expected_s * 1e3)
    assert expected_ms == pytest.approx([10, 15], rel=0.05)


def test_a_relearnt_table_is_the_schedulers_own() -> None:
    views = small_and_large()
    scheduler = scheduler_of(views)
    for _ in range(40):
        scheduler.observe(SMALL, 1, 0.001, 0.0)
        scheduler.observe(LARGE, 1, 0.040, 0.0)
    assert scheduler.variants[LARGE].table.seconds(1) > 0.02
    assert views[LARGE].table.seconds(1) == pytest.approx(0.010)
    again = scheduler_of(views)
    assert again.variants[LARGE].table.seconds(1) == pytest.approx(0.010)
