"""Remote variants in a gateway whose endpoint is a function of the test's."""

import asyncio
import random
from collections.abc import Callable

import pytest

from models.manifest import ManifestError
from models.session import VariantLost
from serving import remotes as remotes_module
from serving.core.breaker import BreakerOptions
from serving.core.errors import GearshiftError, Unavailable
from serving.gateway import Result
from serving.metrics import stat
from serving.ports import Execution, ModelFailed, Tensors, VariantUnavailable
from serving.remotes import Remotes
from serving.testing import FakeBackend
from tests.support.gateways import House, edge_and_cloud

CLOUD = 2
MakeHouse = Callable[..., House]


class Cloud:
    """The endpoint, as probes find it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.probes = 0
        self.probe_s = 0.02

    def __call__(self) -> float:
        self.probes += 1
        if self.error is not None:
            raise self.error
        return self.probe_s


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    cloud = Cloud()
    monkeypatch.setattr(remotes_module, "_probe_of", lambda _lane, _name: cloud)
    # Probes come soon, in the time of the loop.
    monkeypatch.setattr(remotes_module, "Breaker", lambda _: remotes_module_breaker(BreakerOptions(cool_down_s=1e-3)))
    return cloud


remotes_module_breaker = remotes_module.Breaker


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def in_service(house: House) -> bool:
    return CLOUD not in house.lane.scheduler.latency.suspended


def ready(house: House) -> float:
    house.metrics.flush()
    return stat(house.metrics.collect(), "gearshift_variant_ready", variant="cloud")


async def house_of(make_house: MakeHouse, backend: FakeBackend | None = None) -> House:
    house = make_house(backend or FakeBackend(), [edge_and_cloud()])
    await until(lambda: in_service(house))
    return house


async def test_an_endpoint_serves_once_it_has_answered(make_house: MakeHouse, cloud: Cloud) -> None:
    cloud.error = VariantLost("nobody there")
    house = make_house(FakeBackend(), [edge_and_cloud()])
    await until(lambda: cloud.probes >= 3)
    assert (in_service(house), ready(house)) == (False, 0.0)
    result = await house.call(1)
    assert (result.variant, result.reason) == ("large", "unavailable")
    with pytest.raises(Unavailable, match="only variant 'cloud'"):
        await house.call(1, variant="cloud")
    cloud.error = None
    await until(lambda: in_service(house))
    assert ready(house) == 1.0
    assert (await house.call(1)).variant == "cloud"
    assert (await house.call(1)).reason == "most_accurate"


async def test_a_probe_tells_how_long_it_takes(make_house: MakeHouse, cloud: Cloud) -> None:
    cloud.probe_s = 0.06
    house = await house_of(make_house)
    assert house.lane.scheduler.latency.mean_s(CLOUD, 1) == pytest.approx(0.06)


async def test_a_batch_that_fails_there_is_answered_here(make_house: MakeHouse, cloud: Cloud) -> None:
    house = await house_of(make_house)
    house.backend.fail_next(VariantUnavailable("no answer"))
    results = await asyncio.gather(house.call(1, 2), house.call(3))
    assert [batch.variant for batch in house.backend.batches] == ["cloud", "large"]
    assert [result.outputs["tag"].tolist() for result in results] == [[1, 2], [3]]
    assert {(result.variant, result.reason) for result in results} == {("large", "unavailable")}
    assert house.counts() == {"met": 2}
    assert in_service(house), "one failure does not open the breaker"
    assert (await house.call(4)).variant == "cloud"


async def test_failures_in_a_row_take_it_out_of_service(make_house: MakeHouse, cloud: Cloud) -> None:
    house = await house_of(make_house)
    cloud.error = VariantLost("nobody there")
    for number in range(3):
        house.backend.fail_next(VariantUnavailable("no answer"))
        assert (await house.call(number)).variant == "large"
    assert (in_service(house), ready(house)) == (False, 0.0)
    asked = len(house.backend.batches)
    assert (await house.call(9)).variant == "large"
    assert len(house.backend.batches) == asked + 1, "nobody asks the endpoint meanwhile"
    house.metrics.flush()
    assert stat(house.metrics.collect(), "gearshift_remote_failures_total", variant="cloud") == 3
    cloud.error = None
    await until(lambda: in_service(house))
    assert house.counts() == {"met": 4}


async def test_who_can_use_nothing_else_is_told(make_house: MakeHouse, cloud: Cloud) -> None:
    house = await house_of(make_house)
    house.backend.fail_next(VariantUnavailable("no answer"))
    pinned, free = house.call(1, variant="cloud"), house.call(2)
    with pytest.raises(Unavailable, match="did not answer"):
        await pinned
    assert (await free).variant == "large"
    assert house.counts() == {"met": 1, "failed": 1}


async def test_those_in_the_queue_are_told_when_it_goes_out_of_service(make_house: MakeHouse, cloud: Cloud) -> None:
    house = await house_of(make_house, FakeBackend(hold=True))
    first = house.call(0, variant="cloud")
    batch = await house.backend.started()
    waiting = [house.call(tag, variant="cloud") for tag in (1, 2)]
    free = house.call(3)
    await house.settle()
    cloud.error = VariantLost("nobody there")
    for _ in range(2):
        house.dispatcher._remotes[house.lane].failed(CLOUD, "no answer")
    batch.fail(VariantUnavailable("no answer"))
    for call in (first, *waiting):
        with pytest.raises(Unavailable):
            await call
    (await house.backend.started()).finish(0.001)
    assert (await free).variant == "large"
    assert house.counts() == {"met": 1, "failed": 3}


async def test_a_caller_who_left_meanwhile_is_not_served(make_house: MakeHouse, cloud: Cloud) -> None:
    house = await house_of(make_house, FakeBackend(hold=True))
    call = house.call(1)
    batch = await house.backend.started()
    call.cancel()
    await house.settle()
    batch.fail(VariantUnavailable("no answer"))
    await house.settle()
    assert len(house.backend.batches) == 1
    assert not house.lane.scheduler.queue
    assert house.counts() == {"cancelled": 1}


async def test_too_late_for_another_variant_is_expired(make_house: MakeHouse, cloud: Cloud) -> None:
    house = await house_of(make_house, FakeBackend(hold=True))
    call = house.call(1, latency_s=0.1)
    batch = await house.backend.started()
    house.clock.advance(0.0999)
    batch.fail(VariantUnavailable("no answer"))
    with pytest.raises(Exception, match="deadline"):
        await call
    assert house.counts() == {"expired": 1}


async def test_an_endpoint_is_given_the_time_that_leaves_some_for_the_variant_here(
    make_house: MakeHouse, cloud: Cloud
) -> None:
    house = await house_of(make_house)
    await house.call(1, latency_s=0.5)
    (batch,) = house.backend.batches
    assert batch.variant == "cloud"
    # `small` takes 1 ms here, up to a quarter more.
    assert 0.49 < batch.budget_s < 0.499


async def test_guilt_is_found_among_requests_and_not_at_the_endpoint(make_house: MakeHouse, cloud: Cloud) -> None:
    house = await house_of(make_house)
    house.backend.fail_next(ModelFailed("odd rows"), VariantUnavailable("no answer"))
    results = await asyncio.gather(house.call(1), house.call(2))
    assert sorted(result.variant for result in results) == ["cloud", "large"]


@pytest.mark.parametrize("error", [ManifestError("another model"), RuntimeError("a defect")])
async def test_whatever_a_probe_meets_it_is_sent_again(make_house: MakeHouse, cloud: Cloud, error: Exception) -> None:
    cloud.error = error
    house = make_house(FakeBackend(), [edge_and_cloud()])
    await until(lambda: cloud.probes >= 2)
    cloud.error = None
    await until(lambda: in_service(house))


async def test_after_the_end_nobody_is_asked(make_house: MakeHouse, cloud: Cloud) -> None:
    cloud.error = VariantLost("nobody there")
    house = make_house(FakeBackend(), [edge_and_cloud()])
    remotes = house.dispatcher._remotes[house.lane]
    await until(lambda: cloud.probes >= 1)
    remotes.close()
    await asyncio.sleep(0.05)  # a timer that was not cancelled would have rung long ago
    asked = cloud.probes
    remotes._probed(CLOUD, 0.02, "")
    assert not in_service(house)
    await asyncio.sleep(0.05)
    assert cloud.probes == asked


async def test_a_family_of_files_has_nothing_to_watch(house: House) -> None:
    assert isinstance(house.dispatcher._remotes[house.lane], Remotes)
    assert not house.dispatcher._remotes[house.lane]._breakers


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_the_endpoint_does_each_request_ends_once(
    make_house: MakeHouse, cloud: Cloud, seed: int
) -> None:
    """Batches on the endpoint fail as drawn, in any order with answers, probes and callers who leave."""
    draw = random.Random(seed)

    class Moody(FakeBackend):
        async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
            for _ in range(draw.randrange(4)):
                await asyncio.sleep(0)
            if variant == "cloud" and draw.random() < 0.6:
                raise VariantUnavailable("no answer")
            return await super().run(model, variant, inputs, budget_s, worker)

    house = await house_of(make_house, Moody(workers=2))
    calls, left = [], set()
    for tag in range(80):
        cloud.error = VariantLost("nobody there") if draw.random() < 0.5 else None
        pin = draw.choice((None, None, None, "cloud", "small"))
        calls.append(house.call(tag, variant=pin, latency_s=draw.choice((0.005, 0.05, 5.0))))
        if draw.random() < 0.1:
            gone = draw.randrange(len(calls))
            if not calls[gone].done() and calls[gone].cancel():
                left.add(gone)
        if draw.random() < 0.5:
            house.clock.advance(0.002)
            await house.settle()
    async with asyncio.timeout(30):
        ends = await asyncio.gather(*calls, return_exceptions=True)
    for tag, end in enumerate(ends):
        if isinstance(end, Result):
            assert end.outputs["tag"].tolist() == [tag]
        else:
            assert isinstance(end, GearshiftError | asyncio.CancelledError), end
    begun = sum(house.counts().values())
    # One that left before it was looked at was never a request.
    assert len(calls) - len(left) <= begun <= len(calls)
    assert house.count("met") + house.count("late") == sum(isinstance(end, Result) for end in ends)
    assert not house.lane.scheduler.queue
    assert house.dispatcher.workers.in_flight == 0
