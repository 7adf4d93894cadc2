import asyncio
from collections.abc import Callable
from math import exp

import pytest

from serving.core.demand import ModelSignals, ReplicaSignals
from serving.core.errors import Cancelled, Expired
from serving.load import SILENT_S, LoadMeter, WorkerLoad
from serving.metrics import stat
from serving.testing import ManualClock
from tests.support.gateways import House, tagged_family


def meter_of(house: House) -> LoadMeter:
    meter = LoadMeter(house.gateway, house.dispatcher, 10.0, house.clock)
    meter.read()
    return meter


async def answered(house: House, took_s: float, *tags: int, **rest: object) -> None:
    """One call, whose batch takes so long."""
    call = house.call(*tags, **rest)
    batch = await house.backend.started()
    house.clock.advance(took_s)
    batch.finish(took_s)
    await call


async def test_a_replica_that_serves_its_best_gives_up_nothing(house: House) -> None:
    meter = meter_of(house)
    await answered(house, 0.010, 1, 2)
    house.clock.advance(0.990)
    signals = meter.read()
    assert meter.latest is signals
    assert signals.models["m"].rows_per_s == pytest.approx(2.0 * (1 - exp(-0.1)))
    assert signals.models["m"].accuracy_forgone == 0.0
    assert signals.models["m"].attainment == 1.0
    assert 0 < signals.busy < signals.models["m"].demand


async def test_a_late_answer_and_an_expired_request_give_up_all_of_their_best(house: House) -> None:
    meter = meter_of(house)
    await answered(house, 0.5, 1, latency_s=0.1)
    blocking = house.call(0)
    batch = await house.backend.started()
    waiting = house.call(2, latency_s=0.1)
    await house.settle()
    house.clock.advance(0.5)
    batch.finish(0.5)
    with pytest.raises(Expired):
        await waiting
    await blocking
    signals = meter.read().models["m"]
    assert signals.attainment == pytest.approx(1 / 3)
    assert signals.accuracy_forgone == pytest.approx(2 * 0.9 / 3)
    house.metrics.flush()
    told = stat(house.metrics.collect(), "gearshift_accuracy_forgone_total", model="m")
    assert told == pytest.approx(2 * 0.9)


async def test_who_goes_away_is_no_loss_of_the_load(house: House) -> None:
    meter = meter_of(house)
    blocking = house.call(0)
    batch = await house.backend.started()
    leaving = house.call(2)
    await house.settle()
    leaving.cancel()
    with pytest.raises((Cancelled, asyncio.CancelledError)):
        await leaving
    house.clock.advance(0.010)
    batch.finish(0.010)
    await blocking
    assert meter.read().models["m"].attainment == 1.0


async def test_versions_of_a_model_count_together(make_house: Callable[..., House]) -> None:
    house = make_house(families=[tagged_family(), tagged_family(version="2"), tagged_family("other")])
    meter = meter_of(house)
    for lane in house.lanes:
        await answered(house, 0.010, 1, lane=lane)
    house.clock.advance(1.0)
    models = meter.read().models
    assert models.keys() == {"m", "other"}
    assert models["m"].rows_per_s == pytest.approx(2 * models["other"].rows_per_s)


async def test_what_is_read_is_on_the_metrics_page(house: House) -> None:
    meter = meter_of(house)
    first = house.call(1)
    batch = await house.backend.started()
    waiting = house.call(2)
    await house.settle()
    house.clock.advance(1.0)
    signals = meter.read()
    house.metrics.flush()
    page = house.metrics.collect()
    assert stat(page, "gearshift_demand_workers", model="m") == pytest.approx(signals.models["m"].demand)
    assert signals.models["m"].queued_s > 0
    assert stat(page, "gearshift_work_queued_seconds", model="m") == pytest.approx(signals.models["m"].queued_s)
    batch.finish(0.01)
    house.backend.hold = False
    await asyncio.gather(first, waiting, return_exceptions=True)


async def test_the_signals_travel_as_numbers(house: House) -> None:
    meter = meter_of(house)
    await answered(house, 0.010, 1)
    house.clock.advance(1.0)
    numbers = meter.read().flat()
    assert all(isinstance(value, int | float) for value in numbers.values())
    assert ReplicaSignals.read(numbers) == meter.latest


def test_a_worker_passes_on_what_the_living_gateways_say() -> None:
    clock = ManualClock(100.0)
    worker = WorkerLoad(1.0, clock)
    told = ReplicaSignals(9.0, 9.0, {"m": ModelSignals(10.0, 0.5, 0.5)}).flat()
    assert worker.hear("one", told) == (0, 1)
    clock.advance(SILENT_S - 1)
    assert worker.hear("two", told) == (1, 2)
    assert worker.hear("one", told) == (0, 2), "a gateway that speaks again is no other"
    worker.busy_s += 2.0
    stats = worker.stats()
    assert stats["relayed"] == 1.0
    signals = ReplicaSignals.read(stats)
    assert signals.workers == 1.0
    assert 0.4 < signals.busy < 0.5, "two of four seconds, over a window of one"
    assert signals.models["m"].demand == 1.0
    clock.advance(SILENT_S + 0.1)
    assert worker.hear("two", told) == (0, 1)
    assert ReplicaSignals.read(worker.stats()).models["m"].demand == 0.5


async def test_the_dispatcher_follows_the_backend(house: House) -> None:
    """A second worker is there: a batch that waited for the first starts on it."""
    first = house.call(1)
    await house.backend.started()
    second = house.call(2)
    await house.settle()
    assert len(house.backend.batches) == 1
    house.backend.workers = 2
    house.dispatcher.follow()
    await house.settle()
    assert len(house.dispatcher.workers) == 2
    assert len(house.backend.batches) == 2
    house.backend.workers = 1
    house.dispatcher.follow()
    for batch in house.backend.batches:
        batch.finish(0.001)
    await asyncio.gather(first, second)
    assert (len(house.dispatcher.workers), house.dispatcher.workers.in_flight) == (1, 0)
