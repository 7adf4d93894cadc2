"""One request's way through the gateway as its trace and the log tell it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from models.trace_context import TRACEPARENT
from serving.core.errors import Expired
from serving.metrics import stat
from serving.observer import Observer
from serving.testing import FakeBackend
from serving.tracing import parse_traceparent
from tests.support.gateways import House
from tests.support.spans import attributes, id_of, seconds


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path, FakeBackend(hold=True), traced=True)


async def test_a_trace_shows_the_wait_and_the_batch(house: House) -> None:
    observer = Observer(house.clock, house.spans.tracer)
    watched = observer.begin(house.lane, house.clock())
    assert watched is not None
    first = house.call(1)  # not traced: it keeps the only worker busy
    await house.settle()
    house.clock.advance(0.002)
    call = house.call(2, 3, trace=watched.trace)
    await house.settle()
    house.clock.advance(0.003)
    house.backend.batches[0].finish()
    await first
    await house.settle()
    house.clock.advance(0.004)
    house.backend.batches[1].finish()
    result = await call
    watched.end("id-1", 200, result)
    root = house.spans.named("infer m/1")
    stages = house.spans.below(root)
    assert set(stages) == {"queue", "batch"}
    assert seconds(stages["queue"]) == pytest.approx(0.003, abs=1e-6)
    assert seconds(stages["batch"]) == pytest.approx(0.004, abs=1e-6)
    batch = house.spans.named("batch m/1")
    assert [id_of(link) for link in batch.links] == [id_of(root)]
    assert [id_of(link) for link in stages["batch"].links] == [id_of(batch)]
    told = attributes(root)
    assert told["gearshift.variant"] == result.variant
    assert told["gearshift.reason"] == result.reason
    assert told["gearshift.request_id"] == "id-1"
    assert told["gearshift.status"] == 200
    assert root.status.code == root.status.STATUS_CODE_UNSET
    assert len(house.backend.batches) == 2
    await house.close()


async def test_the_backend_is_called_in_the_trace_of_the_batch(house: House) -> None:
    watched = Observer(house.clock, house.spans.tracer).begin(house.lane, house.clock())
    assert watched is not None
    call = house.call(1, trace=watched.trace)
    await house.settle()
    (batch,) = house.backend.batches
    batch.finish()
    await call
    carried = batch.context[TRACEPARENT]
    assert carried is not None
    parent = parse_traceparent(carried)
    assert parent is not None
    assert parent.id == id_of(house.spans.named("batch m/1"))
    await house.close()


async def test_a_traced_request_is_the_exemplar_of_its_buckets(house: House) -> None:
    watched = Observer(house.clock, house.spans.tracer).begin(house.lane, house.clock())
    assert watched is not None
    call = house.call(1, trace=watched.trace)
    await house.settle()
    house.backend.batches[0].finish()
    await call
    house.metrics.flush()
    page, kind = house.metrics.page("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    shown = [line for line in page.decode().splitlines() if f'# {{trace_id="{watched.trace_id}"}}' in line]
    assert {line.partition("{")[0] for line in shown} == {
        "gearshift_request_duration_seconds_bucket",
        "gearshift_queue_duration_seconds_bucket",
    }
    assert stat(house.metrics.collect(), "gearshift_outcome_total", outcome="met") == 1
    await house.close()


async def test_a_refused_request_ends_its_trace_as_an_error(house: House) -> None:
    watched = Observer(house.clock, house.spans.tracer).begin(house.lane, house.clock())
    assert watched is not None
    watched.end("id-2", 504, error=str(Expired("the deadline could no longer be met")))
    root = house.spans.named("infer m/1")
    assert root.status.code == root.status.STATUS_CODE_ERROR
    assert root.status.message == "the deadline could no longer be met"
    await house.close()


async def test_stages_last_until_now(house: House) -> None:
    watched = Observer(house.clock, house.spans.tracer).begin(house.lane, house.clock())
    assert watched is not None
    started_s = house.clock()
    house.clock.advance(0.5)
    watched.stage("decode", started_s)
    watched.end("id-5", 200)
    root = house.spans.named("infer m/1")
    assert attributes(root)["gearshift.decode_ms"] == 500.0
    await house.close()


@pytest.mark.parametrize(("share", "draw", "watched"), [(0.0, 0.0, False), (0.1, 0.09, True), (0.1, 0.1, False)])
async def test_a_share_is_logged(house: House, share: float, draw: float, watched: bool) -> None:
    chance: Callable[[], float] = lambda: draw  # noqa: E731 - a constant instead of chance
    found = Observer(house.clock, None, share, chance).begin(house.lane, house.clock())
    assert (found is not None) is watched
    if found is not None:
        assert found.trace is None
        assert found.trace_id == ""
    await house.close()


async def test_a_line_tells_how_a_request_went(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gearshift.request")
    received_s = house.clock()
    watched = Observer(house.clock, house.spans.tracer, 1.0).begin(house.lane, received_s)
    assert watched is not None
    call = house.call(1, trace=watched.trace)
    await house.settle()
    house.clock.advance(0.25)
    house.backend.batches[0].finish()
    watched.end("id-3", 200, await call)
    (record,) = caplog.records
    told = vars(record)
    assert record.getMessage() == "answered"
    assert (told["request_id"], told["trace_id"], told["model"]) == ("id-3", watched.trace_id, "m/1")
    assert (told["status"], told["duration_ms"], told["queue_ms"]) == (200, 250.0, 0.0)
    await house.close()


async def test_a_line_names_the_trace_of_a_caller_that_is_not_sampled(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gearshift.request")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    watched = Observer(house.clock, None, 1.0).begin(house.lane, house.clock(), f"00-{trace_id}-00f067aa0ba902b7-00")
    assert watched is not None
    watched.end("id-6", 200)
    (record,) = caplog.records
    assert vars(record)["trace_id"] == trace_id
    assert watched.trace is None
    await house.close()


async def test_a_line_of_a_refused_request_says_why(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gearshift.request")
    watched = Observer(house.clock, None, 1.0).begin(house.lane, house.clock())
    assert watched is not None
    watched.end("id-4", 429, error="too much work is queued")
    (record,) = caplog.records
    assert record.getMessage() == "too much work is queued"
    assert not hasattr(record, "trace_id")
    await house.close()


async def test_nobody_is_watched_whose_caller_says_no(house: House) -> None:
    no = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    assert Observer(house.clock, house.spans.tracer).begin(house.lane, house.clock(), no) is None
    await house.close()
