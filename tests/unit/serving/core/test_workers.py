import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.workers import Workers, own_workers


class Naive:
    """A worker is a list of batches: (earliest start, expected time)."""

    def __init__(self, count: int, depth: int) -> None:
        self.queues: list[list[tuple[float, float]]] = [[] for _ in range(count)]
        self.depth = depth

    def free(self, number: int, now_s: float) -> float:
        end_s = 0.0
        for start_s, expected_s in self.queues[number]:
            end_s = max(end_s, start_s) + expected_s
        return max(now_s, end_s)

    def finish(self, number: int, now_s: float) -> None:
        self.queues[number].pop(0)
        # What follows starts now.
        self.queues[number] = [(now_s, expected_s) for _, expected_s in self.queues[number]]


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(1, 9)), max_size=40),
    st.data(),
)
def test_booking_agrees_with_plain_lists(
    count: int, depth: int, events: list[tuple[int, int | None]], data: st.DataObject
) -> None:
    workers, naive = Workers(count, depth), Naive(count, depth)
    now_s = 0.0
    for passes, starts in events:
        now_s += float(passes)
        if starts is not None and workers.idle:
            free = {n: naive.free(n, now_s) for n in range(count) if len(naive.queues[n]) < depth}
            number = workers.start(now_s, float(starts))
            assert free[number] == min(free.values())
            naive.queues[number].append((now_s, float(starts)))
        elif any(naive.queues):
            number = data.draw(st.sampled_from([n for n in range(count) if naive.queues[n]]))
            workers.finish(number, now_s)
            naive.finish(number, now_s)
        in_flight = sum(map(len, naive.queues))
        assert workers.in_flight == in_flight
        assert workers.idle == count * depth - in_flight
        assert workers.busy == sum(1 for queue in naive.queues if queue)
        times = workers.free_at_s(now_s)
        assert sorted(times) == sorted(naive.free(n, now_s) for n in range(count))
        if workers.idle:
            assert times[0] == min(naive.free(n, now_s) for n in range(count) if len(naive.queues[n]) < depth)
        else:
            assert list(times) == sorted(times)


def test_the_length_is_the_number_of_workers() -> None:
    assert len(Workers(3, depth=2)) == 3
    assert Workers(3, depth=2).idle == 6


def test_an_overdue_batch_is_expected_to_end_any_moment() -> None:
    workers = Workers(1)
    workers.start(0.0, 1.0)
    assert workers.free_at_s(0.5) == (1.0,)
    assert workers.free_at_s(7.0) == (7.0,)


def test_the_second_batch_starts_when_the_first_has_ended() -> None:
    workers = Workers(1, depth=2)
    workers.start(0.0, 1.0)
    workers.start(0.5, 2.0)
    assert workers.free_at_s(0.5) == (3.0,)
    workers.finish(0, 1.5)
    assert workers.free_at_s(1.5) == (3.5,)


def test_more_batches_than_fit_are_our_own_bug() -> None:
    workers = Workers(1)
    workers.start(0.0, 1.0)
    with pytest.raises(ValueError):
        workers.start(0.0, 1.0)


@given(st.integers(1, 200), st.integers(1, 50))
def test_every_worker_is_one_gateway_s_and_no_gateway_has_none(workers: int, gateways: int) -> None:
    owned = [own_workers(workers, gateways, place) for place in range(gateways)]
    assert {number for own in owned for number in own} == set(range(workers))
    sizes = [len(own) for own in owned]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    if workers >= gateways:
        assert sum(sizes) == workers


@given(
    st.integers(1, 4),
    st.integers(1, 2),
    st.lists(st.tuples(st.sampled_from(("start", "finish", "resize")), st.integers(1, 5)), max_size=40),
    st.data(),
)
def test_workers_come_and_go_without_losing_count(
    count: int, depth: int, events: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Batches of a worker that leaves are ended like others; a worker that is back has what it had."""
    workers = Workers(count, depth)
    flying: list[int] = []
    for now, (what, number) in enumerate(events):
        if what == "start" and workers.idle > 0:
            flying.append(workers.start(float(now), float(number)))
            assert flying[-1] < len(workers)
        elif what == "finish" and flying:
            flying.remove(done := data.draw(st.sampled_from(flying)))
            workers.finish(done, float(now))
        elif what == "resize":
            workers.resize(number)
            count = number
        assert len(workers) == count
        assert workers.in_flight == sum(1 for worker in flying if worker < count)
        assert workers.idle == count * depth - workers.in_flight
        assert len(workers.free_at_s(float(now))) == count
    workers.resize(1)
    for number in flying:
        workers.finish(number, 100.0)
    assert workers.idle == depth


def test_the_crowd_is_the_share_of_the_others_that_are_busy() -> None:
    workers = Workers(3)
    crowds = []
    for _ in range(3):
        workers.start(0.0, 1.0)
        crowds.append(workers.crowd)
    assert crowds == [0.0, 0.5, 1.0]
    alone = Workers(1)
    alone.start(0.0, 1.0)
    assert alone.crowd == 0.0


def test_a_worker_alone_is_kept_from_the_start_of_its_batch() -> None:
    workers = Workers(1)
    workers.start(1.0, 9.0)
    assert workers.kept_s(0, 3.0) == 2.0
    workers.finish(0, 3.0)
    workers.start(4.0, 9.0)
    assert workers.kept_s(0, 4.5) == 0.5


def test_with_two_in_flight_only_a_batch_that_followed_tells_what_kept_the_worker() -> None:
    workers = Workers(1, depth=2)
    workers.start(0.0, 1.0)
    workers.start(0.5, 1.0)
    assert workers.kept_s(0, 2.0) is None
    workers.finish(0, 2.0)
    assert workers.kept_s(0, 3.5) == 1.5
    workers.finish(0, 3.5)
    workers.start(4.0, 1.0)
    assert workers.kept_s(0, 5.0) is None
    workers.start(4.5, 1.0)
    workers.resize(1)
    workers.finish(0, 5.0)
    assert workers.kept_s(0, 6.0) == 1.0
