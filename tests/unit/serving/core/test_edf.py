import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.core.edf import EdfQueue
from serving.core.request import Request
from tests.support.views import choice, request

ONE, OTHER = choice(0, 1), choice(0, 1)


def in_order(queue: EdfQueue) -> list[Request]:
    return list(queue)


class QueueMachine(RuleBasedStateMachine):
    """The queue beside a list that is sorted anew each time."""

    @initialize()
    def start(self) -> None:
        self.queue = EdfQueue()
        self.model: list[tuple[float, int, int, Request]] = []
        self.serial = 0
        self.gone: list[Request] = []

    def expected(self) -> list[Request]:
        return [entry[3] for entry in sorted(self.model, key=lambda entry: entry[:3])]

    def drop(self, requests: list[Request]) -> None:
        self.model = [entry for entry in self.model if entry[3] not in requests]
        self.gone += requests

    @rule(
        deadline_ms=st.integers(1, 5),
        priority=st.integers(0, 2),
        rows=st.sampled_from((1, 1, 1, 2, 5)),
        size=st.integers(0, 9),
        allowed=st.sampled_from((ONE, ONE, OTHER)),
        group=st.sampled_from((None, None, "g")),
    )
    def push(self, deadline_ms: int, priority: int, rows: int, size: int, allowed: object, group: str | None) -> None:
        new = request(
            deadline_ms,
            allowed,  # type: ignore[arg-type]
            rows=rows,
            priority=priority,
            size_bytes=size,
            group=group,
        )
        queued = self.expected()
        at = self.queue.position(new)
        would_be_alike = self.queue.all_like(new)
        self.queue.push(new, 0.1 * rows)
        self.serial += 1
        self.model.append((new.deadline_s, priority, self.serial, new))
        assert at == self.expected().index(new)
        kinds = {(r.eligibility, r.group, r.rows == 1) for r in [*queued, new]}
        assert would_be_alike == (len(kinds) == 1 and new.rows == 1)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        victim = data.draw(st.sampled_from(self.expected()))
        assert self.queue.remove(victim)
        self.drop([victim])

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def cancel_again(self, data: st.DataObject) -> None:
        assert not self.queue.remove(data.draw(st.sampled_from(self.gone)))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def take_head(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.model)))
        taken = self.expected()[:count]
        self.queue.take(taken)
        self.drop(taken)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def take_any(self, data: st.DataObject) -> None:
        taken = data.draw(st.lists(st.sampled_from(self.expected()), unique=True))
        self.queue.take(tuple(taken))
        self.drop(taken)

    @invariant()
    def agrees(self) -> None:
        expected = self.expected()
        assert in_order(self.queue) == self.queue.requests == expected
        assert len(self.queue) == len(expected)
        assert self.queue.rows == sum(r.rows for r in expected)
        assert self.queue.size_bytes == sum(r.size_bytes for r in expected)
        assert self.queue.works_s == [0.1 * r.rows for r in expected]
        assert self.queue.work_s == pytest.approx(sum(self.queue.works_s), abs=1e-9)
        assert all(r in self.queue for r in expected)
        assert not any(r in self.queue for r in self.gone)
        kinds = {(r.eligibility, r.group) for r in expected}
        assert self.queue.alike == (len(kinds) <= 1 and all(r.rows == 1 for r in expected))
        if expected:
            assert self.queue.head is expected[0]


TestQueue = QueueMachine.TestCase


def test_an_empty_queue_has_no_head() -> None:
    with pytest.raises(IndexError):
        _ = EdfQueue().head


def test_equals_stand_by_priority_and_then_by_arrival() -> None:
    queue = EdfQueue()
    first, second, urgent = request(5, ONE, priority=1), request(5, ONE, priority=1), request(5, ONE, priority=0)
    for each in (first, second, urgent):
        queue.push(each)
    assert in_order(queue) == [urgent, first, second]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=8))
def test_a_newcomer_stands_behind_its_equals(deadlines: list[int]) -> None:
    queue = EdfQueue()
    for deadline in deadlines:
        queue.push(request(deadline, ONE))
    newcomer = request(deadlines[0], ONE)
    assert queue.position(newcomer) == sum(deadline <= deadlines[0] for deadline in deadlines)
