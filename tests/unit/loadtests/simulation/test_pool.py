from collections.abc import Iterator
from itertools import cycle

from loadtests.simulation.pool import Batch, Booked, Host, Pool, TwoChoices


def batch(gateway: int = 0, booked: int = 0, worker: int = 0) -> Batch:
    return Batch(gateway, 0, 0, (), 1, booked, 0.0, worker)


def test_a_worker_runs_one_batch_at_a_time_in_the_order_they_came() -> None:
    pool, first, second = Pool(2, Host()), batch(), batch()
    assert pool.put(first)
    assert not pool.put(second)
    assert pool.put(batch(worker=1))
    assert pool.done(0) is second
    assert pool.done(0) is None


def test_batches_run_on_the_worker_they_were_booked_on() -> None:
    assert Booked(range(4)).choose(batch(booked=3), 0.0) == 3
    assert Booked(range(1, 6, 2)).choose(batch(booked=2), 0.0) == 5


def drawn(*numbers: float) -> Iterator[float]:
    return cycle(numbers)


def sent(route: TwoChoices, gateway: int, now_s: float) -> Batch:
    going = batch(gateway)
    going.worker = route.choose(going, now_s)
    return going


def test_the_less_loaded_of_two_is_taken() -> None:
    route = TwoChoices(1, 2, 0.0, drawn(0.0, 0.0))  # always worker 0, and 1 as the other
    assert [sent(route, 0, 0.0).worker for _ in range(4)] == [0, 1, 0, 1]


def test_what_came_back_counts_no_more() -> None:
    route = TwoChoices(1, 2, 0.0, drawn(0.0, 0.0))
    route.returned(sent(route, 0, 0.0))
    assert sent(route, 0, 0.0).worker == 0


def test_others_are_known_as_they_were() -> None:
    route = TwoChoices(2, 2, 1.0, drawn(0.0, 0.0))
    assert sent(route, 1, 0.5).worker == 0
    assert sent(route, 0, 0.5).worker == 0  # does not know of the other gateway's batch there
    assert sent(route, 0, 0.6).worker == 1  # knows its own
    assert sent(route, 0, 1.0).worker == 1  # looks: two batches on 0, its own on 1


def test_with_fresh_knowledge_the_others_count_at_once() -> None:
    route = TwoChoices(2, 2, 0.0, drawn(0.0, 0.0))
    assert [sent(route, gateway, 0.5).worker for gateway in (1, 0)] == [0, 1]


def test_one_worker_needs_no_choice() -> None:
    route = TwoChoices(1, 1, 0.0, drawn(0.9))
    assert [sent(route, 0, 0.0).worker for _ in range(2)] == [0, 0]
