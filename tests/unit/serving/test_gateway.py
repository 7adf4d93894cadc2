import asyncio
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cascade import CUT_SHORT, SURE, WENT_ON
from models.manifest import ESCALATED, Cascade, Family, Variant
from serving.core.budget import RequestBudget
from serving.core.errors import (
    Cancelled,
    Expired,
    GearshiftError,
    Infeasible,
    InputRefusedByModel,
    Rejected,
    Unavailable,
    UnknownModel,
)
from serving.gateway import TOO_MUCH_WORK, Result
from serving.metrics import stat
from serving.ports import Execution, ModelFailed, Tensors, WorkerLost
from serving.testing import FakeBackend, echo
from tests.support.gateways import House, call_of, tagged_family


def tags_of(result: Result) -> list[int]:
    return [int(tag) for tag in result.outputs["tag"]]


async def test_a_lone_call_gets_the_most_accurate_answer(house: House) -> None:
    call = house.call(1, 2)
    batch = await house.backend.started()
    assert (batch.model, batch.variant) == ("m/1", "large")
    house.clock.advance(0.011)
    batch.finish(0.010)
    result = await call
    assert tags_of(result) == [1, 2]
    assert (result.variant, result.accuracy, result.reason) == ("large", 0.9, "most_accurate")
    assert (result.batch_rows, result.queue_s, result.compute_s) == (2, 0.0, 0.010)
    assert result.deadline_met
    assert result.predicted_s > 0.010


async def test_answers_go_to_their_own_callers(house: House) -> None:
    first = house.call(0)
    blocking = await house.backend.started()
    calls = {tags: house.call(*tags) for tags in ((1,), (2, 3), (4,), (5, 6, 7))}
    await house.settle()
    blocking.finish(0.001)
    await house.settle()
    house.backend.hold = False
    (await house.backend.started()).finish(0.001)
    for tags, call in calls.items():
        assert tags_of(await call) == list(tags)
    await first
    assert max(len(batch.inputs["tag"]) for batch in house.backend.batches) > 1, "no batch was formed"


async def test_calls_that_cannot_share_do_not(house: House) -> None:
    first = house.call(0)
    blocking = await house.backend.started()
    calls = [house.call(1, group="a"), house.call(2, group="b"), house.call(3, group="a")]
    await house.settle()
    house.backend.hold = False
    blocking.finish(0.001)
    await asyncio.gather(first, *calls)
    batches = [set(batch.inputs["tag"].tolist()) for batch in house.backend.batches]
    assert not any({1, 2} <= batch or {3, 2} <= batch for batch in batches)


async def test_an_answer_after_the_deadline_is_late_and_says_so(house: House) -> None:
    call = house.call(1, latency_s=0.05)
    batch = await house.backend.started()
    house.clock.advance(0.0501)
    batch.finish()
    assert not (await call).deadline_met
    assert house.counts() == {"late": 1}


async def test_a_small_budget_is_answered_by_the_small_variant(house: House) -> None:
    call = house.call(1, latency_s=0.005)
    (await house.backend.started()).finish()
    result = await call
    assert (result.variant, result.reason) == ("small", "budget")


async def test_a_pinned_variant_answers(house: House) -> None:
    call = house.call(1, variant="small")
    (await house.backend.started()).finish()
    assert ((await call).variant, (await call).reason) == ("small", "pinned")


async def test_a_pinned_variant_that_only_seems_too_slow_is_tried_again(house: House) -> None:
    """Nobody else asks for it: were it refused for good, nothing would ever show that it was a bad moment."""
    for _ in range(40):  # a hundred times as slow as calibrated, while the other one keeps to its time
        house.lane.count_batch(0, 1, Execution({}, 0.001, 0.001), house.clock())
        house.lane.count_batch(1, 1, Execution({}, 1.0, 1.0), house.clock())
    refused = 0
    for _ in range(20):
        call = house.call(1, latency_s=0.1, variant="large")
        await house.settle()
        if not call.done():
            break
        with pytest.raises(Infeasible):
            await call
        refused += 1
        house.clock.advance(0.3)
    assert refused > 0, "it did not seem too slow"
    (await house.backend.started()).finish(0.010)
    assert (await call).variant == "large"


async def test_a_budget_that_never_was_feasible_makes_nobody_doubt(house: House) -> None:
    for _ in range(40):
        house.lane.count_batch(0, 1, Execution({}, 0.003, 0.003), house.clock())
    slowdown = house.lane.scheduler.latency.slowdown
    assert slowdown > 2
    for _ in range(5):
        house.clock.advance(0.3)
        with pytest.raises(Infeasible):
            await house.call(1, latency_s=0.0001)
    assert house.lane.scheduler.latency.slowdown == slowdown


@pytest.mark.parametrize(("rest", "error"), [({"latency_s": 0.0001}, Infeasible), ({"variant": "none"}, UnknownModel)])
async def test_what_can_never_be_met_is_refused_and_counted(
    house: House, rest: dict[str, object], error: type[GearshiftError]
) -> None:
    with pytest.raises(error):
        await house.call(1, **rest)
    assert house.counts() == {"rejected": 1}
    assert not house.backend.batches


async def test_too_much_work_is_refused_with_a_time_to_come_again(house: House) -> None:
    taken = [house.call(tag, latency_s=0.02, variant="large") for tag in range(8)]
    await house.settle()
    refused = [house.call(tag, latency_s=0.02, variant="large") for tag in range(50)]
    ended = [await asyncio.gather(call, return_exceptions=True) for call in refused[8:]]
    (error,) = ended[-1]
    assert isinstance(error, Rejected)
    assert str(error) == TOO_MUCH_WORK
    assert 0 < error.retry_after_s < 1
    house.backend.hold = False
    (await house.backend.started()).finish()
    await asyncio.gather(*taken, *refused, return_exceptions=True)
    assert sum(house.counts().values()) == 58


async def test_too_many_bytes_are_refused(house: House) -> None:
    first = house.call(0)
    batch = await house.backend.started()
    with pytest.raises(Rejected, match="too many input bytes are queued: retry later"):
        await house.call(1, size=(1 << 20) + 1)
    batch.finish()
    await first


async def test_a_host_turned_slow_names_the_budget_it_would_need(house: House) -> None:
    for _ in range(300):
        house.lane.scheduler.observe(0, 1, 0.1, house.clock())
    with pytest.raises(Infeasible) as caught:
        await house.call(1, latency_s=0.005)
    assert str(caught.value) == (
        "the latency budget is too short for model 'm' on this host now: "
        "the nearest feasible latency_budget_ms is 110 (variant 'small')"
    )
    # Sent back, it is taken.
    call = house.call(1, latency_s=0.120)
    (await house.backend.started()).finish()
    assert (await call).deadline_met


async def test_a_call_whose_time_runs_out_in_the_queue_is_told(house: House) -> None:
    blocking = house.call(0, latency_s=0.2)
    batch = await house.backend.started()
    waiting = house.call(1, latency_s=0.1)
    await house.settle()
    house.clock.advance(0.15)
    batch.finish(0.15)
    with pytest.raises(Expired, match="nothing was executed"):
        await waiting
    await blocking
    assert len(house.backend.batches) == 1
    assert house.counts() == {"met": 1, "expired": 1}


async def test_a_cancelled_call_leaves_the_queue_and_is_counted_once(house: House) -> None:
    blocking = house.call(0)
    batch = await house.backend.started()
    gone = house.call(1)
    await house.settle()
    assert house.lane.scheduler.queue.rows == 1
    gone.cancel()
    with pytest.raises((Cancelled, asyncio.CancelledError)):
        await gone
    assert house.lane.scheduler.queue.rows == 0
    batch.finish()
    await blocking
    await house.settle()
    assert len(house.backend.batches) == 1
    assert house.counts() == {"met": 1, "cancelled": 1}


async def test_a_caller_that_hangs_up_gets_cancelled(house: House) -> None:
    hang_up: list = []
    call = asyncio.ensure_future(house.gateway.infer(house.lane, call_of(house.clock(), 1), hang_up.append))
    batch = await house.backend.started()
    hang_up[0]()
    with pytest.raises(Cancelled):
        await call
    batch.finish()  # its answer is nobody's
    await house.settle()
    assert house.counts() == {"cancelled": 1}


async def test_one_who_leaves_does_not_take_the_batch_along(house: House) -> None:
    blocking = house.call(0)
    first = await house.backend.started()
    leaving, staying = house.call(1), house.call(2)
    await house.settle()
    first.finish()
    batch = await house.backend.started()
    assert batch.inputs["tag"].tolist() == [1, 2]
    leaving.cancel()
    await house.settle()
    assert not batch.cancelled
    batch.finish()
    assert tags_of(await staying) == [2]
    await blocking


def refuses_13(variant: str, inputs: Tensors) -> Tensors:
    if 13 in inputs["tag"]:
        raise ModelFailed("unlucky")
    return echo(variant, inputs)


async def test_the_input_a_model_refuses_is_found_and_its_neighbours_are_served(
    make_house: Callable[..., House],
) -> None:
    house = make_house(FakeBackend(hold=True, outputs=refuses_13))
    blocking = house.call(0)
    first = await house.backend.started()
    before, guilty, after = house.call(1), house.call(12, 13), house.call(3)
    await house.settle()
    house.backend.hold = False
    first.finish()
    assert tags_of(await before) == [1]
    assert tags_of(await after) == [3]
    with pytest.raises(InputRefusedByModel, match="^the model could not process this input$"):
        await guilty
    await blocking
    assert len(house.backend.batches[1].inputs["tag"]) == 4
    assert house.counts() == {"met": 3, "failed": 1}
    assert house.dispatcher.workers.in_flight == 0


async def test_a_refused_call_that_is_alone_runs_once(make_house: Callable[..., House]) -> None:
    house = make_house(FakeBackend(outputs=refuses_13))
    with pytest.raises(InputRefusedByModel):
        await house.call(13)
    assert len(house.backend.batches) == 1


async def test_a_lost_worker_is_told_to_all_in_its_batch(house: House) -> None:
    blocking = house.call(0)
    first = await house.backend.started()
    calls = [house.call(1), house.call(2)]
    await house.settle()
    first.finish()
    (await house.backend.started()).fail(WorkerLost("gone"))
    for call in calls:
        with pytest.raises(Unavailable, match="may be sent again"):
            await call
    await blocking
    assert house.counts() == {"met": 1, "failed": 2}
    after = house.call(3)
    (await house.backend.started()).finish()
    assert tags_of(await after) == [3]


async def test_turning_away_counts_one_row(house: House) -> None:
    house.gateway.turn_away(house.lane, 1.0, house.clock())  # nothing speaks against it
    held = [house.call(tag, latency_s=0.02, variant="large") for tag in range(50)]
    await house.settle()
    refused = house.count("rejected")
    with pytest.raises(Rejected) as caught:
        house.gateway.turn_away(house.lane, 0.002, house.clock())
    assert str(caught.value) == TOO_MUCH_WORK
    assert house.count("rejected") == refused + 1
    await house.dispatcher.close()
    await asyncio.gather(*held, return_exceptions=True)


async def test_models_and_versions(make_house: Callable[..., House]) -> None:
    families = [tagged_family("m", "10"), tagged_family("m", "9"), tagged_family("n", "1")]
    house = make_house(families=families)
    assert house.gateway.lane("m").family.version == "10"
    assert house.gateway.lane("m", "9").family.version == "9"
    assert list(house.gateway.lanes["m"]) == ["9", "10"]
    with pytest.raises(UnknownModel) as unknown_model:
        house.gateway.lane("x" * 500)
    assert str(unknown_model.value) == f"Request for unknown model: '{'x' * 80}' is not found"
    with pytest.raises(UnknownModel) as unknown_version:
        house.gateway.lane("m", "3")
    assert str(unknown_version.value) == "Request for unknown model: 'm' version 3 is not found"
    call = house.call(5, lane=house.gateway.lane("m", "9"))
    batch = await house.backend.started()
    assert batch.model == "m/9"
    batch.finish()
    await call


async def test_a_priority_orders_but_does_not_make_another_class(house: House) -> None:
    plain = call_of(house.clock(), 1)
    urgent = replace(plain, budget=replace(plain.budget, priority=3))
    calls = [asyncio.ensure_future(house.gateway.infer(house.lane, each)) for each in (plain, urgent)]
    house.backend.hold = False
    await asyncio.gather(house.call(0), *calls)
    assert house.lane.eligibility.cache_info().currsize == 1


steps = st.lists(
    st.tuples(
        st.sampled_from(("call", "call", "call", "cancel", "finish", "lose", "refuse", "wait")), st.integers(0, 9)
    ),
    max_size=40,
)


@given(steps)
def test_the_counters_equal_what_the_callers_saw(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever happens to the calls, each has one end; answers hold the caller's own rows; the sums agree."""
    asyncio.run(account(tmp_path_factory.mktemp("metrics"), steps))


async def account(folder: Path, steps: list[tuple[str, int]]) -> None:
    house = House(folder, FakeBackend(workers=2, hold=True, outputs=refuses_13))
    try:
        await check_account(house, steps)
    finally:
        await house.close()


async def check_account(house: House, steps: list[tuple[str, int]]) -> None:
    calls = await play(house, steps)
    await house.dispatcher.close()
    ends = await asyncio.gather(*(call for _, call in calls), return_exceptions=True)
    seen: dict[str, int] = {}
    for (tags, _), end in zip(calls, ends, strict=True):
        if isinstance(end, Result):
            assert tags_of(end) == tags
        outcome = outcome_of(end)
        seen[outcome] = seen.get(outcome, 0) + 1
    assert house.counts() == seen
    families = house.metrics.collect()
    assert stat(families, "gearshift_request_duration_seconds_count") == sum(seen.values())
    assert stat(families, "gearshift_selection_total") == seen.get("met", 0) + seen.get("late", 0)
    assert house.dispatcher.workers.in_flight == 0
    assert not house.lane.scheduler.queue


async def play(house: House, steps: list[tuple[str, int]]) -> list[tuple[list[int], asyncio.Task[Result]]]:
    """Carry out the steps, then let every batch end; returns the calls and the tags each was made with."""
    calls: list[tuple[list[int], asyncio.Task[Result]]] = []
    for step, number in steps:
        running = [batch for batch in house.backend.batches if not batch.ended]
        match step:
            case "call":
                tags = [13] if number == 9 else [len(calls) * 100 + row + 20 for row in range(number % 3 + 1)]
                calls.append((tags, house.call(*tags, latency_s=(0.005, 0.03, 1.0)[number % 3])))
            case "cancel" if calls:
                calls[number % len(calls)][1].cancel()
            case "finish" if running:
                running[number % len(running)].finish()
            case "lose" if running:
                running[number % len(running)].fail(WorkerLost("gone"))
            case "refuse" if running:
                running[number % len(running)].fail(ModelFailed("refused"))
            case "wait":
                house.clock.advance(number / 1e3)
        await house.settle()
    house.backend.hold = False
    for batch in house.backend.batches:
        if not batch.ended:
            batch.finish()
    await house.settle()
    return calls


def outcome_of(end: Result | BaseException) -> str:
    """The outcome that a caller saw."""
    match end:
        case Result():
            return "met" if end.deadline_met else "late"
        case asyncio.CancelledError() | Cancelled():
            return "cancelled"
        case Rejected() | Infeasible():
            return "rejected"
        case Expired():
            return "expired"
        case Unavailable() | InputRefusedByModel():
            return "failed"
        case _:
            raise AssertionError(f"ended as {end!r}")


def cascading(fates: list[int]) -> FakeBackend:
    """A backend whose cascade tells these fates of its rows."""

    def outputs(variant: str, inputs: Tensors) -> Tensors:
        told = dict(inputs)
        if variant == "both":
            told[ESCALATED] = np.array(fates, np.uint8)
        return told

    return FakeBackend(outputs=outputs)


def with_cascade() -> Family:
    plain = tagged_family()
    rule = Cascade(first="small", then="large", output="y", threshold=0.5, escalation=0.5)
    both = Variant(name="both", cascade=rule, accuracy=0.89)
    return plain.model_copy(update={"variants": (*plain.variants, both)})


@pytest.mark.parametrize(
    ("fates", "variant", "accuracy", "share"),
    [
        ([SURE, WENT_ON], "both", 0.89, 0.5),
        ([SURE, SURE], "both", 0.89, 0.0),
        ([WENT_ON, CUT_SHORT], "small", 0.6, 0.5),
    ],
)
async def test_a_cascade_tells_what_it_did(
    make_house: Callable[..., House], fates: list[int], variant: str, accuracy: float, share: float
) -> None:
    house = make_house(cascading(fates), [with_cascade()])
    result = await house.call(1, 2, variant="both")
    assert (result.variant, result.accuracy, result.escalated) == (variant, accuracy, share)
    assert house.backend.batches[0].variant == "both"
    assert (await house.call(3, variant="large")).escalated is None


async def test_a_cascade_may_be_cut_short_only_where_its_first_variant_will_do(
    make_house: Callable[..., House],
) -> None:
    house = make_house(cascading([SURE]), [with_cascade()])
    await house.call(1, variant="both")
    allowed = house.gateway.lane("m").eligibility(RequestBudget(latency_s=0.005), 1)
    assert allowed.mask == 0b101
    await house.call(1, latency_s=0.005)
    assert [batch.budget_s for batch in house.backend.batches] == [inf, pytest.approx(0.005, abs=1e-3)]
    assert house.backend.batches[1].variant == "both"


async def test_rows_that_went_on_are_no_slowdown(make_house: Callable[..., House]) -> None:
    house = make_house(cascading([WENT_ON]), [with_cascade()])
    house.backend._seconds = lambda _variant, _rows: 0.011  # small and large, one row each
    for _ in range(5):
        await house.call(1, variant="both")
    assert house.lane.scheduler.latency.slowdown == pytest.approx(1.0)
