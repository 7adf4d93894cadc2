from math import inf

import pytest

from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot
from serving.core.latency import LatencyModel
from serving.core.policies.batching import (
    dispatch,
    fitting_rows,
    largest_batch,
    settle,
    slack_of,
    stand_in,
    variant_named,
)
from serving.core.request import Request
from serving.core.scheduler import Expire, Wait
from tests.support.views import choice, exact_model, request, small_and_large, view

SMALL, LARGE = 0, 1
BOTH = choice(SMALL, LARGE)
VIEWS = small_and_large()
IDLE = FleetSnapshot(1, (0.0,))


@pytest.fixture
def latency() -> LatencyModel:
    return exact_model(VIEWS)


def queue_of(*requests: Request) -> EdfQueue:
    queue = EdfQueue()
    for each in requests:
        queue.push(each, 0.0)
    return queue


def test_an_empty_queue_waits_for_something_to_happen(latency: LatencyModel) -> None:
    assert settle(0.0, EdfQueue(), IDLE, latency, early_drop=True) == Wait(inf)


def test_without_early_drop_a_request_lives_until_its_deadline(latency: LatencyModel) -> None:
    late, alive = request(5, BOTH), request(6, BOTH)
    queue = queue_of(late, alive)
    assert settle(0.0045, queue, IDLE, latency, early_drop=False) is None
    assert settle(0.0051, queue, IDLE, latency, early_drop=False) == Expire((late,))


def test_early_drop_gives_up_on_what_the_fastest_variant_would_miss(latency: LatencyModel) -> None:
    late, alive = request(5, BOTH), request(6, BOTH)
    queue = queue_of(late, alive)
    assert settle(0.004, queue, IDLE, latency, early_drop=True) is None  # one millisecond is exactly enough
    assert settle(0.0041, queue, IDLE, latency, early_drop=True) == Expire((late,))
    busy = FleetSnapshot(0, (0.0055,))
    assert settle(0.0, queue, busy, latency, early_drop=True) == Expire((late, alive))


def test_while_no_worker_is_idle_it_waits_until_somebody_must_be_told(latency: LatencyModel) -> None:
    queue, busy = queue_of(request(5, BOTH)), FleetSnapshot(0, (0.001,), overhead_s=0.001)
    assert settle(0.0, queue, busy, latency, early_drop=False) == Wait(pytest.approx(0.005))
    assert settle(0.0, queue, busy, latency, early_drop=True) == Wait(pytest.approx(0.003))


def test_the_slack_counts_the_overhead_and_the_worker() -> None:
    fleet = FleetSnapshot(1, (0.004,), overhead_s=0.002)
    assert slack_of(request(10, BOTH), 0.001, fleet) == pytest.approx(0.004)


@pytest.mark.parametrize(("within_ms", "rows"), [(0.5, 1), (1, 1), (3, 3), (3.9, 3), (100, 6)])
def test_the_largest_batch_that_fits(latency: LatencyModel, within_ms: float, rows: int) -> None:
    assert fitting_rows(latency, SMALL, within_ms / 1e3, 6) == rows


def test_a_batch_is_the_head_and_those_that_may_join_it(latency: LatencyModel) -> None:
    head, other, large_only, third, fourth = (
        request(1, BOTH),
        request(2, BOTH, group="else"),
        request(3, choice(LARGE)),
        request(4, choice(SMALL), rows=2),
        request(5, BOTH, rows=2),
    )
    queue = queue_of(head, other, large_only, third, fourth)
    found = dispatch(queue, SMALL, 4, latency)
    assert (found.requests, found.rows) == ((head, third), 3)
    assert found.expected_s == pytest.approx(0.003)
    assert dispatch(queue, SMALL, 5, latency).requests == (head, third, fourth)
    assert dispatch(queue, SMALL, 1, latency).requests == (head,)


def test_a_head_larger_than_the_batch_goes_alone(latency: LatencyModel) -> None:
    head = request(1, BOTH, rows=9)
    assert dispatch(queue_of(head, request(2, BOTH)), SMALL, 4, latency).requests == (head,)


def test_names_that_hold_for_any_family() -> None:
    assert [variant_named(VIEWS, name) for name in ("fastest", "most-accurate", "v1")] == [SMALL, LARGE, LARGE]


def test_the_stand_in_is_the_nearest_allowed() -> None:
    views = (view(0, 0.6, (1,)), view(1, 0.7, (2,)), view(2, 0.8, (3,)))
    assert stand_in(choice(0, 1, 2), 1, views) == 1
    assert stand_in(choice(0, 2), 1, views) == 2
    assert stand_in(choice(0), 1, views) == 0


def test_without_a_knee_the_largest_measured_batch_counts() -> None:
    assert largest_batch(view(0, 0.5, (1, 2, 4), knee_rows=1)) == 4
