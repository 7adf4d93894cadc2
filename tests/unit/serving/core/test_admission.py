from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.admission import Admitted, Rejected, admit
from serving.core.edf import EdfQueue
from serving.core.fleet import VariantView
from serving.core.plan import FallbackPlan
from serving.core.request import Request
from tests.support.views import choice, exact_model, families, request, view

FAMILY = (view(0, 0.6, (2, 4, 8, 16), knee_rows=4),)
ANY = choice(0)


def door(
    newcomer: Request,
    *waiting: Request,
    now_s: float = 0.0,
    free_at_s: Sequence[float] = (0.0,),
    overhead_s: float = 0.0,
    caution_s: float = 0.0,
    door_s: float = 0.0,
    ratio: float = 1.0,
    max_bytes: int = 1000,
    family: tuple[VariantView, ...] = FAMILY,
) -> Admitted | Rejected:
    queue = EdfQueue()
    for each in waiting:
        queue.push(each)
    plan = FallbackPlan(exact_model(family), [v.knee_rows for v in family])
    return admit(
        newcomer,
        now_s,
        queue=queue,
        plan=plan,
        free_at_s=free_at_s,
        overhead_s=overhead_s,
        caution_s=caution_s,
        door_s=door_s,
        ratio=ratio,
        max_bytes=max_bytes,
    )


def test_an_idle_gateway_takes_what_just_fits() -> None:
    assert door(request(2, ANY)) == Admitted()
    assert door(request(2.5, ANY), overhead_s=0.0005) == Admitted()
    assert door(request(2.5, ANY), ratio=1.25) == Admitted()


def test_whoever_has_to_wait_needs_room_for_what_an_overhead_may_stray_by() -> None:
    assert door(request(2, ANY), caution_s=0.001) == Admitted(), "nobody is before it"
    assert door(request(4, ANY), free_at_s=(0.002,)) == Admitted()
    assert door(request(5, ANY), free_at_s=(0.002,), caution_s=0.001) == Admitted()
    for verdict in (
        door(request(4.5, ANY), free_at_s=(0.002,), caution_s=0.001),
        door(request(4.5, ANY), request(2, ANY), caution_s=0.001),
    ):
        assert isinstance(verdict, Rejected)
        assert verdict.cause == "work"


@pytest.mark.parametrize("stricter", [{"overhead_s": 0.0001}, {"ratio": 1.01}, {"door_s": 0.0001, "now_s": 0.0001}])
def test_a_budget_that_even_an_idle_gateway_cannot_meet_now(stricter: dict[str, float]) -> None:
    verdict = door(request(2, ANY), **stricter)  # type: ignore[arg-type]
    assert isinstance(verdict, Rejected)
    assert verdict.cause == "budget"


def test_a_budget_spent_on_the_way_to_a_busy_door_is_work_ahead() -> None:
    verdict = door(request(2, ANY), now_s=0.0001)
    assert isinstance(verdict, Rejected)
    assert verdict.cause == "work"


def test_work_ahead_says_when_to_come_again() -> None:
    verdict = door(request(5, ANY), request(4, ANY), request(4, ANY))
    assert isinstance(verdict, Rejected)
    assert verdict.cause == "work"
    assert verdict.retry_after_s == pytest.approx(0.001)  # 4 ms of work, then 2 ms for a deadline in 5 ms


def test_a_busy_worker_is_work_ahead() -> None:
    verdict = door(request(5, ANY), free_at_s=(0.004,))
    assert isinstance(verdict, Rejected)
    assert (verdict.cause, verdict.retry_after_s) == ("work", pytest.approx(0.001))
    assert door(request(5, ANY), free_at_s=(0.0, 0.004)) == Admitted()


def test_a_newcomer_may_not_push_others_past_their_deadlines() -> None:
    promised = request(4, ANY, rows=2)
    assert door(request(3, ANY), promised) != Admitted()
    assert door(request(6, ANY), promised) == Admitted()


def test_a_promise_that_is_lost_already_does_not_close_the_door() -> None:
    lost = request(1, ANY)
    assert door(request(5, ANY), lost) == Admitted()


def test_a_promise_that_will_hardly_be_kept_is_still_in_the_way() -> None:
    late = request(3, ANY, rows=2)  # 4 ms of work: late, if by little, and nobody drops it before it has been tried
    assert door(request(5, ANY), late) != Admitted()
    assert door(request(6, ANY), late) == Admitted()


def test_bytes_are_bounded_before_work_is_looked_at() -> None:
    held = request(50, ANY, size_bytes=700)
    assert door(request(50, ANY, size_bytes=300), held) == Admitted()
    assert door(request(50, ANY, size_bytes=301), held, now_s=0.040) == Rejected("bytes", pytest.approx(0.010))
    assert door(request(50, ANY, size_bytes=301), held, now_s=0.060) == Rejected("bytes", 0.0)


deadlines = st.lists(st.tuples(st.integers(1, 40), st.sampled_from((1, 1, 2, 5))), max_size=10)


@given(families(), deadlines, st.tuples(st.integers(1, 40), st.sampled_from((1, 2, 5))), st.integers(1, 3))
def test_admitting_never_breaks_a_promise(
    family: tuple[VariantView, ...], drawn: list[tuple[int, int]], new: tuple[int, int], workers: int
) -> None:
    allowed = choice(*sorted((v.index for v in family), key=lambda index: family[index].table.seconds(1)))
    plan = FallbackPlan(exact_model(family), [v.knee_rows for v in family])
    waiting = [request(deadline_ms, allowed, rows=rows) for deadline_ms, rows in sorted(drawn)]
    newcomer = request(new[0], allowed, rows=new[1])
    before = plan.misses(waiting, 0.0, [0.0] * workers, door=True)
    verdict = door(newcomer, *waiting, free_at_s=[0.0] * workers, family=family)
    at = sum(r.deadline_s <= newcomer.deadline_s for r in waiting)
    after = plan.misses([*waiting[:at], newcomer, *waiting[at:]], 0.0, [0.0] * workers, door=True)
    if isinstance(verdict, Admitted):
        assert after.count <= before.count
    else:
        assert after.count > before.count or after.last
        assert verdict.retry_after_s > 0
