import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from models.manifest import Family, Padding, TensorSpec
from serving import dispatcher as dispatcher_module
from serving.codec.merge import batch_key
from serving.core.admission import Admitted, Rejected
from serving.core.errors import Expired, GearshiftError, InternalError, Unavailable
from serving.core.request import Request
from serving.core.scheduler import OVERHEAD_STEP_S, OVERHEAD_WEIGHT
from serving.dispatcher import Answer, Pending
from serving.gateway import Result
from serving.ports import Execution, ExecutionError, ModelFailed, Tensors, WorkerLost
from serving.testing import FakeBackend
from tests.support.gateways import House, call_of, rows_of, tagged_family
from tests.support.views import choice

BOTH = choice(0, 1)
MakeHouse = Callable[..., House]


def offer(house: House, *tags: int, latency_s: float = 1.0) -> tuple[Request, asyncio.Future[Answer]]:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    now_s = house.clock()
    new = Request(len(tags), now_s, now_s + latency_s, BOTH, payload=Pending(rows_of(*tags), future))
    assert isinstance(house.dispatcher.submit(house.lane, new), Admitted)
    return new, future


async def offered(house: House, count: int) -> list[asyncio.Future[Answer]]:
    """So many requests, one after the other has been looked at."""
    futures = []
    for tag in range(count):
        futures.append(offer(house, tag)[1])
        await house.settle()
    return futures


async def ends_of(house: House, *calls: asyncio.Task[Result]) -> list[Result | BaseException]:
    """How these calls ended; fails, instead of waiting, when one has not."""
    await house.settle()
    silent = [call for call in calls if not call.done()]
    for call in silent:
        call.cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert not silent, f"{len(silent)} callers were left waiting"
    return ends


async def test_requests_that_arrive_together_share_a_batch(house: House) -> None:
    futures = [offer(house, tag)[1] for tag in range(4)]
    batch = await house.backend.started()
    assert batch.inputs["tag"].tolist() == [0, 1, 2, 3]
    batch.finish(0.004)
    answers = await asyncio.gather(*futures)
    assert [answer.outputs["tag"].tolist() for answer in answers] == [[0], [1], [2], [3]]
    assert {(answer.batch_rows, answer.compute_s) for answer in answers} == {(4, 0.004)}


def padded_family() -> Family:
    """ids INT64 [-1,-1], filled up to 4 or 8 with -1 -> tag INT64 [-1]."""
    plain = tagged_family()
    ids = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1), padding=Padding(axis=1, buckets=(4, 8), value=-1))
    return plain.model_copy(update={"inputs": (ids,)})


def lengths_of(variant: str, inputs: Tensors) -> Tensors:
    return {"tag": (inputs["ids"] >= 0).sum(axis=1)}


async def test_requests_of_one_bucket_share_a_batch_filled_up(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(hold=True, outputs=lengths_of), [padded_family()])
    futures = []
    for length in (1, 4, 7, 2):
        inputs = {"ids": np.arange(length)[np.newaxis]}
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        group = batch_key(inputs, house.lane.paddings)
        now_s = house.clock()
        new = Request(1, now_s, now_s + 1.0, BOTH, group=group, payload=Pending(inputs, future))
        assert isinstance(house.dispatcher.submit(house.lane, new), Admitted)
        futures.append(future)
    first = await house.backend.started()
    assert first.inputs["ids"].tolist() == [[0, -1, -1, -1], [0, 1, 2, 3], [0, 1, -1, -1]]
    first.finish(0.004)
    second = await house.backend.started()
    assert second.inputs["ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, -1]]
    second.finish(0.004)
    answers = await asyncio.gather(*futures)
    assert [answer.outputs["tag"].tolist() for answer in answers] == [[1], [4], [7], [2]]
    assert [answer.batch_rows for answer in answers] == [3, 3, 1, 3]


async def test_the_batch_is_told_the_most_patient_deadline(house: House) -> None:
    offer(house, 1, latency_s=0.5)
    offer(house, 2, latency_s=0.7)
    batch = await house.backend.started()
    assert batch.inputs["tag"].tolist() == [1, 2]
    assert batch.budget_s == pytest.approx(0.7)
    batch.finish()


async def test_the_backend_is_told_which_worker_a_batch_was_booked_on(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(workers=2, hold=True))
    futures = await offered(house, 2)
    first, second = house.backend.batches
    assert {first.worker, second.worker} == {0, 1}
    second.finish()
    futures.append(offer(house, 2)[1])
    await house.settle()
    assert house.backend.batches[-1].worker == second.worker
    for batch in house.backend.batches:
        if not batch.ended:
            batch.finish()
    await asyncio.gather(*futures)


async def test_no_more_batches_than_workers(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(workers=2, depth=2, hold=True))
    futures = await offered(house, 12)
    assert house.backend.running == house.dispatcher.workers.in_flight == 4
    house.backend.hold = False
    for batch in list(house.backend.batches):
        batch.finish()
    await asyncio.gather(*futures)
    assert house.backend.most_running == 4
    assert house.dispatcher.workers.in_flight == 0


async def test_a_refused_request_is_not_kept(house: House) -> None:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    now_s = house.clock()
    hopeless = Request(1, now_s, now_s + 0.0001, BOTH, payload=Pending(rows_of(1), future))
    assert isinstance(house.dispatcher.submit(house.lane, hopeless), Rejected)
    await house.settle()
    assert not future.done()
    assert not house.lane.scheduler.queue


async def test_a_batch_runs_in_a_clean_context(house: House) -> None:
    caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")
    caller.set("the first")
    call = house.call(1)
    batch = await house.backend.started()
    assert caller.get() == "the first"
    assert batch.context.get(caller) is None
    batch.finish()
    await call


async def test_the_model_with_the_most_urgent_request_goes_first(make_house: MakeHouse) -> None:
    house = make_house(families=[tagged_family("a"), tagged_family("b")])
    patient = house.call(1, lane=house.lanes[0], latency_s=1.0)
    urgent = house.call(2, lane=house.lanes[1], latency_s=0.5)
    first = await house.backend.started()
    assert first.model == "b/1"
    first.finish()
    second = await house.backend.started()
    assert second.model == "a/1"
    second.finish()
    await asyncio.gather(patient, urgent)


async def test_a_timer_expires_what_waits_for_a_stuck_worker(house: House) -> None:
    offer(house, 0)
    await house.backend.started()
    _, waiting = offer(house, 1, latency_s=0.02)
    await house.settle()
    timer = house.dispatcher._timer
    assert timer is not None
    house.clock.advance(0.021)
    timer.cancel()
    house.dispatcher._pump()  # what the timer would have called
    with pytest.raises(Expired):
        await waiting


async def test_while_every_worker_is_busy_only_a_new_head_is_looked_at(house: House) -> None:
    offer(house, 0)
    batch = await house.backend.started()
    _, head = offer(house, 1, latency_s=0.2)
    await house.settle()
    timer = house.dispatcher._timer
    assert timer is not None
    _, patient = offer(house, 2, latency_s=0.5)
    await house.settle()
    assert house.dispatcher._timer is timer
    _, hurried = offer(house, 3, latency_s=0.1)
    await house.settle()
    sooner = house.dispatcher._timer
    assert sooner is not None
    assert sooner.when() < timer.when()
    house.backend.hold = False
    batch.finish()
    await asyncio.gather(head, patient, hurried)


async def test_the_oldest_batch_has_an_age(house: House) -> None:
    assert house.dispatcher.oldest_batch_s() == 0
    offer(house, 1)
    batch = await house.backend.started()
    house.clock.advance(3.0)
    assert house.dispatcher.oldest_batch_s() == 3.0
    batch.finish()
    await house.settle()
    assert house.dispatcher.oldest_batch_s() == 0
    assert house.dispatcher.busy_s == 3.0


async def test_closing_tells_everybody(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(hold=True))
    running = house.call(0)
    await house.backend.started()
    waiting = [house.call(1), house.call(2)]
    await house.settle()
    await house.dispatcher.close()
    for end in await ends_of(house, running, *waiting):
        assert isinstance(end, Unavailable)
        assert "stopped before" in str(end)
    assert house.counts() == {"failed": 3}
    assert house.backend.batches[0].cancelled
    assert len(house.backend.batches) == 1, "a batch was started while closing"
    assert not house.lane.scheduler.queue


async def test_closing_tells_those_whose_batch_has_hardly_begun(make_house: MakeHouse) -> None:
    house = make_house()
    call = house.call(1)
    for _ in range(10):
        if house.dispatcher._batches:
            break
        await asyncio.sleep(0)
    assert house.dispatcher._batches
    assert not house.backend.batches, "too late for this test: the batch runs"
    await house.dispatcher.close()
    (end,) = await ends_of(house, call)
    assert isinstance(end, Unavailable)


async def test_after_closing_nobody_is_left_waiting(make_house: MakeHouse) -> None:
    house = make_house()
    await house.dispatcher.close()
    (end,) = await ends_of(house, house.call(1))
    assert isinstance(end, Unavailable)


async def test_a_batch_nobody_waits_for_any_more_counts_as_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long the patience is: here it has passed at once.
    monkeypatch.setattr(dispatcher_module, "PATIENCE_S", -10.0)
    with pytest.raises(Unavailable):
        await house.call(1)
    assert house.backend.batches[0].cancelled
    assert house.dispatcher.workers.in_flight == 0


def one_row_too_few(variant: str, inputs: Tensors) -> Tensors:
    return {"tag": inputs["tag"][1:]}


async def test_outputs_that_are_not_one_row_a_row_are_nobodys(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(outputs=one_row_too_few))
    calls = [house.call(1), house.call(2, 3)]
    for call in calls:
        with pytest.raises(GearshiftError, match="could not process"):
            await call
    assert house.counts() == {"failed": 2}


async def test_a_model_without_rows_runs_one_request_at_a_time(make_house: MakeHouse) -> None:
    house = make_house(families=[tagged_family(batch_axis=3)])
    house.backend.hold = False
    now_s = house.clock()
    inputs = [call_of(now_s, *tags) for tags in ((1, 2, 3), (4, 5, 6))]
    calls = [house.gateway.infer(house.lane, each) for each in inputs]
    answers = await asyncio.gather(*calls)
    assert [answer.outputs["tag"].tolist() for answer in answers] == [[1, 2, 3], [4, 5, 6]]


class Broken(FakeBackend):
    async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
        raise RuntimeError("a secret detail")


async def test_a_defect_is_an_internal_error_that_gives_nothing_away(
    make_house: MakeHouse, caplog: pytest.LogCaptureFixture
) -> None:
    house = make_house(Broken())
    with caplog.at_level(logging.ERROR, "gearshift.dispatcher"), pytest.raises(InternalError) as caught:
        await house.call(1)
    assert str(caught.value) == "internal error"
    assert "a secret detail" in caplog.text
    assert house.dispatcher.workers.in_flight == 0


async def test_a_worker_lost_while_the_guilty_one_is_searched(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend())
    house.backend.fail_next(ModelFailed("one of these"), WorkerLost("gone"))
    lost, served = house.call(1), house.call(2)
    with pytest.raises(Unavailable):
        await lost
    assert (await served).outputs["tag"].tolist() == [2]
    assert house.counts() == {"met": 1, "failed": 1}


async def test_what_the_model_took_is_learnt_and_waiting_for_locks_is_not(house: House) -> None:
    class WithLocks(FakeBackend):
        async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
            execution = await super().run(model, variant, inputs, budget_s, worker)
            return Execution(execution.outputs, 0.050, 0.010)

    house.dispatcher._backend = WithLocks()
    await house.call(1)
    assert house.lane.scheduler.latency.slowdown == pytest.approx(1.0)


async def test_what_a_worker_is_kept_by_besides_the_model_is_learnt(make_house: MakeHouse) -> None:
    class Held(FakeBackend):
        async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
            execution = await super().run(model, variant, inputs, budget_s, worker)
            return Execution(execution.outputs, execution.compute_s, service_s=-0.010)

    learnt = []
    for depth in (1, 2):
        house = make_house(Held(depth=depth))
        await house.call(1)
        learnt.append(house.lane.scheduler.hand_over_s)
    assert learnt[0] > 0
    assert learnt[1] == 0, "it was on its way for some of that time, and a second would have been beside it"


async def test_a_worker_is_kept_by_the_batch_that_follows_from_the_end_of_the_one_before(
    make_house: MakeHouse,
) -> None:
    house = make_house(FakeBackend(depth=2, hold=True))
    futures = await offered(house, 2)
    first, second = house.backend.batches
    house.clock.advance(0.004)
    first.finish(0.001)
    await house.settle()
    assert house.lane.scheduler.hand_over_s == 0
    house.clock.advance(0.004)
    second.finish(0.001)
    await asyncio.gather(*futures)
    assert house.lane.scheduler.hand_over_s == pytest.approx(OVERHEAD_WEIGHT * OVERHEAD_STEP_S), "3 ms are far above 0"


class SplitsBadly(dict[str, np.ndarray]):
    """Outputs whose reading fails: a defect behind the backend."""

    def items(self):  # type: ignore[no-untyped-def]
        raise RuntimeError("torn")


async def test_a_defect_while_splitting_leaves_nobody_waiting(make_house: MakeHouse) -> None:
    def torn(variant: str, inputs: Tensors) -> Mapping[str, np.ndarray]:
        return SplitsBadly(inputs)

    house = make_house(FakeBackend(outputs=torn))
    ends = await asyncio.gather(house.call(1), house.call(2), return_exceptions=True)
    assert all(isinstance(end, InternalError) for end in ends)
    assert house.counts() == {"failed": 2}


async def test_a_defect_while_the_guilty_one_is_searched_leaves_nobody_waiting(make_house: MakeHouse) -> None:
    class BreaksAlone(FakeBackend):
        async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
            if len(inputs["tag"]) == 1:
                raise RuntimeError("a defect")
            raise ModelFailed("one of these")

    house = make_house(BreaksAlone())
    ends = await ends_of(house, house.call(1), house.call(2))
    assert all(isinstance(end, GearshiftError) for end in ends)
    assert house.counts() == {"failed": 2}
    assert house.dispatcher.workers.in_flight == 0


async def test_closing_while_the_guilty_one_is_searched_leaves_nobody_waiting(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(hold=True))
    house.backend.fail_next(ModelFailed("one of these"))
    calls = [house.call(1), house.call(2)]
    await house.backend.started()
    await house.backend.started()  # the first alone
    await house.dispatcher.close()
    ends = await ends_of(house, *calls)
    assert all(isinstance(end, Unavailable) for end in ends)


def test_errors_of_execution_are_of_one_kind() -> None:
    assert issubclass(ModelFailed, ExecutionError)
    assert issubclass(WorkerLost, ExecutionError)
    assert not issubclass(ModelFailed, WorkerLost)


def test_a_folder_is_made_for_the_metrics(tmp_path: Path) -> None:
    async def make() -> None:
        await House(tmp_path / "a" / "b").close()

    asyncio.run(make())
    assert (tmp_path / "a" / "b").is_dir()
