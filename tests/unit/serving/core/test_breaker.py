from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.breaker import Breaker, BreakerOptions

OPTIONS = BreakerOptions(failures=3, cool_down_s=1.0, growth=2.0, most_s=10.0)


def closed(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(OPTIONS)
    breaker.probe_succeeded(now_s)
    return breaker


def test_nobody_is_trusted_unseen() -> None:
    breaker = Breaker(OPTIONS)
    assert (breaker.open, breaker.probe_at_s) == (True, 0.0)
    breaker.probe_succeeded(0.0)
    assert not breaker.open


def test_failures_in_a_row_open_it_once() -> None:
    breaker = closed()
    assert [breaker.failed(100.0) for _ in range(5)] == [False, False, True, False, False]
    assert (breaker.open, breaker.probe_at_s) == (True, 101.0)


def test_an_answer_between_them_starts_the_count_anew() -> None:
    breaker = closed()
    for _ in range(4):
        assert not breaker.failed(100.0)
        assert not breaker.failed(100.0)
        breaker.succeeded()
    assert not breaker.open


def test_waits_grow_up_to_a_bound() -> None:
    breaker = closed()
    now_s, waits = 100.0, []
    for _ in range(3):
        breaker.failed(now_s)
    for _ in range(6):
        waits.append(breaker.probe_at_s - now_s)
        now_s = breaker.probe_at_s
        breaker.probe_failed(now_s)
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0, 10.0, 10.0])


@pytest.mark.parametrize(("well_s", "wait_s"), [(4.0, 8.0), (4.1, 1.0)])
def test_who_relapses_at_once_waits_longer_than_before(well_s: float, wait_s: float) -> None:
    breaker = closed()
    for _ in range(3):
        breaker.failed(100.0)
    breaker.probe_failed(101.0)
    breaker.probe_failed(103.0)
    breaker.probe_succeeded(107.0)
    for _ in range(3):
        breaker.failed(107.0 + well_s)
    assert breaker.probe_at_s == pytest.approx(107.0 + well_s + wait_s)


@dataclass
class Model:
    """What the breaker must be, said another way: a list of what happened since it was last closed."""

    open: bool = True
    row: list[str] = field(default_factory=list)


@given(
    st.lists(st.tuples(st.sampled_from(["failed", "succeeded", "probe_failed", "probe_succeeded"]), st.floats(0, 20)))
)
def test_it_is_open_exactly_after_a_row_of_failures_until_a_probe(events: list[tuple[str, float]]) -> None:
    breaker, model, now_s = Breaker(OPTIONS), Model(), 0.0
    for event, after_s in events:
        now_s += after_s
        if event.startswith("probe"):
            if not model.open:
                continue  # nobody probes who is in service
            getattr(breaker, event)(now_s)
            if event == "probe_succeeded":
                model = Model(open=False)
        elif event == "failed":
            opened = breaker.failed(now_s)
            model.row.append(event)
            should = not model.open and model.row[-OPTIONS.failures :] == ["failed"] * OPTIONS.failures
            assert opened == should
            model.open = model.open or should
        else:
            breaker.succeeded()
            model.row.append(event)
        assert breaker.open == model.open
        if breaker.open and now_s > 0 and event in ("failed", "probe_failed"):
            assert breaker.probe_at_s <= now_s + OPTIONS.most_s
