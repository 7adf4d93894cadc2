from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.edf import EdfQueue
from serving.core.fleet import VariantView
from serving.core.plan import NO_MISSES, PLANNED, Backlog, FallbackPlan, joins
from serving.core.request import Request
from tests.support.views import choice, exact_model, families, request, view

ALL = choice(0)
FAMILY = (view(0, 0.6, (2, 3, 4, 8), knee_rows=4), view(1, 0.9, (10, 20, 40, 80), knee_rows=4))


def plan_of(family: tuple[VariantView, ...] = FAMILY) -> FallbackPlan:
    return FallbackPlan(exact_model(family), [v.knee_rows for v in family])


def queue_of(*deadlines_ms: float) -> list[Request]:
    return [request(deadline_ms, ALL) for deadline_ms in deadlines_ms]


def test_a_batch_is_as_large_as_the_knee_allows() -> None:
    count, took_s = plan_of().first_batch(queue_of(*[100] * 6), 0, 0.0)
    assert (count, took_s) == (4, pytest.approx(0.004))


def test_a_batch_starts_where_it_is_told() -> None:
    assert plan_of().first_batch(queue_of(*[100] * 6), 4, 0.0)[0] == 2


def test_a_batch_is_halved_while_it_would_make_its_head_late() -> None:
    assert plan_of().first_batch(queue_of(3, 100, 100, 100), 0, 0.0)[0] == 2
    assert plan_of().first_batch(queue_of(2, 100, 100, 100), 0, 0.0)[0] == 1
    # Even a head that is lost anyway is one batch.
    assert plan_of().first_batch(queue_of(1, 100), 0, 0.0)[0] == 1


def test_the_head_deadline_counts_the_ratio_and_the_overhead() -> None:
    plan = plan_of()
    assert plan.first_batch(queue_of(4, 100, 100, 100), 0, 0.0)[0] == 4
    assert plan.first_batch(queue_of(4, 100, 100, 100), 0, 0.0, 1.25)[0] == 2
    assert plan.first_batch(queue_of(4, 100, 100, 100), 0, 0.0, 1.0, 0.0005)[0] == 2
    assert plan.first_batch(queue_of(4, 100, 100, 100), 0, 0.0005)[0] == 2


def test_a_batch_holds_only_whom_its_head_can_share_with() -> None:
    other = request(50, ALL, group="other")
    assert plan_of().first_batch([*queue_of(50), other, *queue_of(50)], 0, 0.0)[0] == 1
    large = request(50, ALL, rows=9)
    assert plan_of().first_batch([large, *queue_of(50)], 0, 0.0)[0] == 1
    assert plan_of().first_batch([*queue_of(50), request(50, ALL, rows=4)], 0, 0.0)[0] == 1


def test_who_joins() -> None:
    head = request(5, choice(0, 1))
    assert joins(request(9, head.eligibility), head, 0)
    assert joins(request(9, choice(0)), head, 0)
    assert not joins(request(9, choice(1)), head, 0)
    assert not joins(request(9, head.eligibility, group="g"), head, 0)


def test_nothing_is_missed_by_an_empty_queue() -> None:
    assert plan_of().misses([], 0.0, [0.0]) is NO_MISSES


def test_what_is_late_even_alone_is_passed_over() -> None:
    missed = plan_of().misses(queue_of(1, 3, 100), 0.0, [0.0])
    assert (missed.count, missed.last) == (1, False)
    assert missed.late_s == pytest.approx(0.001)  # not the second: it is served as if the first were not there


def test_how_late_the_last_is() -> None:
    missed = plan_of().misses(queue_of(2, 3), 0.0, [0.0])
    assert (missed.count, missed.last) == (1, True)
    assert missed.late_s == pytest.approx(0.001)


def test_a_worker_free_in_the_past_is_free_now() -> None:
    assert plan_of().misses(queue_of(12), 0.010, [0.0]) is NO_MISSES
    assert plan_of().misses(queue_of(12), 0.0101, [0.0]).count == 1


def test_more_workers_serve_more() -> None:
    waiting = [request(8, ALL, rows=4), request(8, ALL, rows=4), request(8, ALL, rows=4)]
    assert plan_of().misses(waiting, 0.0, [0.0]).count == 1
    assert plan_of().misses(waiting, 0.0, [0.0, 0.004]) is NO_MISSES


def by_hand(
    plan: FallbackPlan, requests: Sequence[Request], now_s: float, free_at_s: Sequence[float]
) -> tuple[int, list[tuple[float, float]]]:
    """The plan with plain lists: misses, and what each worker does from when to when."""
    free = [max(now_s, at_s) for at_s in free_at_s]
    missed, runs, waiting = 0, [], list(requests)
    while waiting:
        worker = free.index(min(free))
        count, took_s = plan.first_batch(waiting, 0, free[worker])
        if free[worker] + took_s > waiting[0].deadline_s + 1e-9:
            missed += 1
            waiting.pop(0)
            continue
        runs.append((free[worker], free[worker] + took_s))
        free[worker] += took_s
        del waiting[:count]
    return missed, runs


deadlines = st.lists(st.tuples(st.integers(1, 40), st.sampled_from((1, 1, 2, 5)), st.sampled_from("aab")), max_size=12)
frees = st.lists(st.integers(0, 10).map(lambda ms: ms / 1e3), min_size=1, max_size=3)


@given(families(), deadlines, frees)
def test_the_plan_agrees_with_plain_lists(
    family: tuple[VariantView, ...], drawn: list[tuple[int, int, str]], free_at_s: list[float]
) -> None:
    allowed = choice(*sorted((v.index for v in family), key=lambda index: family[index].table.seconds(1)))
    queue = EdfQueue()
    for deadline_ms, rows, group in drawn:
        queue.push(request(deadline_ms, allowed, rows=rows, group=group))
    plan = plan_of(family)
    missed, _ = by_hand(plan, queue.requests, 0.002, free_at_s)
    assert plan.misses(queue.requests, 0.002, free_at_s).count == missed


def test_a_worker_needs_its_time_between_two_batches() -> None:
    waiting = queue_of(2, 5)  # a batch of 2 ms each
    assert plan_of().misses(waiting, 0.0, [0.0], hand_over_s=0.001) is NO_MISSES
    late = plan_of().misses(waiting, 0.0, [0.0], hand_over_s=0.002)
    assert (late.count, late.late_s) == (1, pytest.approx(0.001))


def test_the_far_end_of_a_long_queue_needs_it_too() -> None:
    plan, long_queue = plan_of(), EdfQueue()
    for _ in range(200):  # 50 batches of 4 ms
        each = request(260, ALL)
        long_queue.push(each, plan.work_s(each))
    backlog = plan.backlog(long_queue)

    def missed(hand_over_s: float) -> int:
        return plan.misses(long_queue.requests, 0.0, [0.0], hand_over_s=hand_over_s, alike=True, backlog=backlog).count

    assert missed(0.001) == 0
    assert missed(0.002) > 0


def test_what_is_late_may_be_kept_in_its_place() -> None:
    plan = plan_of((view(0, 0.6, (2, 4, 8, 16), knee_rows=1),))
    waiting = queue_of(3, 3, 5)  # 2 ms each: the second is late
    assert plan.misses(waiting, 0.0, [0.0]).count == 1
    kept = plan.misses(waiting, 0.0, [0.0], door=True)
    assert (kept.count, kept.last) == (2, True)
    # Nobody begins with one whose time is over.
    assert plan.misses(queue_of(1, 5, 5), 0.001, [0.0], door=True).count == 1


def test_at_the_door_the_errors_of_many_batches_even_out() -> None:
    """One in ten is half as long again: so may be one of four, and not all four of them."""
    plan = plan_of((view(0, 0.6, (2, 4, 8, 16), knee_rows=1),))
    for deadlines_ms, each, together in (((3,), 0, 0), ((3, 6, 9, 10), 1, 0), ((3, 6, 9, 9.9), 1, 1)):
        waiting = queue_of(*deadlines_ms)
        assert plan.misses(waiting, 0.0, [0.0], ratio=1.5).count == each
        assert plan.misses(waiting, 0.0, [0.0], ratio=1.5, door=True).count == together


def test_at_the_door_they_do_so_at_the_far_end_too() -> None:
    plan = plan_of((view(0, 0.6, (2, 4, 8, 16), knee_rows=1),))
    waiting = queue_of(*(1000.0 for _ in range(400)))
    backlog = Backlog([plan.work_s(each) for each in waiting], 0.002)
    assert plan.misses(waiting, 0.0, [0.0], ratio=1.4, backlog=backlog).count > 0
    assert plan.misses(waiting, 0.0, [0.0], ratio=1.4, backlog=backlog, door=True).count == 0


def test_prices_follow_a_corrected_table() -> None:
    family = FAMILY
    latency = exact_model(family)
    plan, queue = FallbackPlan(latency, [v.knee_rows for v in family]), EdfQueue()
    waits = request(10, ALL)
    queue.push(waits, plan.work_s(waits))
    longest_s = plan.backlog(queue).longest_s
    latency.tables[0].stretch(3.0)
    latency.revision += 1
    assert plan.backlog(queue).longest_s == pytest.approx(3 * longest_s)


def test_a_long_queue_is_planned_anew_when_anything_changes() -> None:
    """Who is due first stays planned while others join at the end; each answer must be that of a plan made afresh."""
    plan, queue = plan_of(), EdfQueue()
    for number in range(3 * PLANNED):
        each = request(20 + number, ALL)
        queue.push(each, plan.work_s(each))
    newcomer = request(20 + 3 * PLANNED, ALL)

    def as_afresh(now_s: float, free_at_s: list[float]) -> float:
        late_s = plan.late_behind(queue, newcomer, now_s, free_at_s)
        assert late_s == pytest.approx(plan_of().late_behind(queue, newcomer, now_s, free_at_s))
        return late_s

    seen = [as_afresh(0.0, [0.0, 0.01]), as_afresh(0.0, [0.005, 0.01]), as_afresh(0.007, [0.005, 0.01])]
    queue.take(queue.requests[:4])
    seen.append(as_afresh(0.007, [0.005, 0.01]))
    hurried = request(15, ALL)
    queue.push(hurried, plan.work_s(hurried))
    seen.append(as_afresh(0.007, [0.005, 0.01]))
    queue.remove(hurried)
    seen.append(as_afresh(0.007, [0.005, 0.01]))
    assert len(set(seen)) > 3


@given(families(), st.lists(st.integers(1, 40), max_size=20), frees)
def test_the_short_cut_for_requests_that_are_alike_changes_nothing(
    family: tuple[VariantView, ...], deadlines_ms: list[int], free_at_s: list[float]
) -> None:
    waiting = [request(deadline_ms, ALL) for deadline_ms in sorted(deadlines_ms)]
    plan = plan_of(family)
    long_way = plan.misses(waiting, 0.0, free_at_s, ratio=1.1, overhead_s=0.001)
    assert plan.misses(waiting, 0.0, free_at_s, ratio=1.1, overhead_s=0.001, alike=True) == long_way


@given(
    waiting=st.integers(2 * PLANNED, 200),
    spread_ms=st.integers(1, 900),
    budget_ms=st.integers(1, 1500),
    rows=st.sampled_from((1, 1, 2)),
    workers=st.integers(1, 3),
    ratio=st.sampled_from((1.0, 1.3)),
    hand_over_ms=st.sampled_from((0.0, 0.4)),
)
def test_who_goes_behind_a_long_queue_is_judged_as_in_a_look_at_all_of_it(
    waiting: int, spread_ms: int, budget_ms: int, rows: int, workers: int, ratio: float, hand_over_ms: float
) -> None:
    plan, queue = plan_of(), EdfQueue()
    for number in range(waiting):
        each = request(10 + number * spread_ms / waiting, ALL, rows=rows)
        queue.push(each, plan.work_s(each))
    newcomer = request(10 + spread_ms + budget_ms, ALL)
    terms = {"ratio": ratio, "overhead_s": 0.0005, "hand_over_s": hand_over_ms / 1e3}
    free_at_s = [0.001 * worker for worker in range(workers)]
    late_s = plan.late_behind(queue, newcomer, 0.0, free_at_s, **terms)
    backlog = plan.backlog(queue).merged(waiting, plan.backlog_of(newcomer))
    whole = plan.misses([*queue.requests, newcomer], 0.0, free_at_s, backlog=backlog, door=True, **terms)
    assert (late_s > 0) == whole.last
    if whole.last:
        assert late_s <= whole.late_s + 1e-9
