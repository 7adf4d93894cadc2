"""What is told about a model, as Triton's clients read it."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.http.describe import config_of, statistics_of
from serving.testing import FakeBackend
from tests.support.gateways import House, tagged_family

SECTIONS = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, FakeBackend(), [tagged_family(), tagged_family("other")])
    yield house
    await house.close()


def statistics(house: House, place: int = 0) -> dict:
    house.metrics.flush()
    return statistics_of(house.lanes[place], house.metrics.collect())


async def test_a_model_nobody_has_asked(house: House) -> None:
    told = statistics(house)
    assert (told["name"], told["version"]) == ("m", "1")
    assert (told["last_inference"], told["inference_count"], told["execution_count"]) == (0, 0, 0)
    assert told["inference_stats"] == {section: {"count": 0, "ns": 0} for section in SECTIONS}
    assert (told["response_stats"], told["batch_stats"], told["memory_usage"]) == ({}, [], [])


async def test_rows_batches_and_requests_are_told_apart(house: House) -> None:
    before_ms = int(time.time() * 1e3)
    for tags in ((1,), (2,), (3, 4, 5)):
        await house.call(*tags)
    told = statistics(house)
    assert told["inference_count"] == 5
    assert told["execution_count"] == 3
    assert told["inference_stats"]["success"]["count"] == 3
    assert told["inference_stats"]["fail"]["count"] == 0
    assert before_ms <= told["last_inference"] <= int(time.time() * 1e3)
    assert [(entry["batch_size"], entry["compute_infer"]["count"]) for entry in told["batch_stats"]] == [(1, 2), (3, 1)]
    assert statistics(house, 1)["inference_count"] == 0


async def test_the_stages_of_batches_carry_their_time(house: House) -> None:
    house.lane.count_stages(4, 0.001, 0.020, 0.002)
    house.lane.count_stages(4, 0.003, 0.030, 0.001)
    (entry,) = statistics(house)["batch_stats"]
    assert entry == {
        "batch_size": 4,
        "compute_input": {"count": 2, "ns": pytest.approx(4_000_000, abs=10)},
        "compute_infer": {"count": 2, "ns": pytest.approx(50_000_000, abs=10)},
        "compute_output": {"count": 2, "ns": pytest.approx(3_000_000, abs=10)},
    }


async def test_refusals_are_failures(house: House) -> None:
    with pytest.raises(Exception, match="nobody"):
        await house.call(1, variant="nobody")
    told = statistics(house)["inference_stats"]
    assert (told["success"]["count"], told["fail"]["count"]) == (0, 1)


async def test_the_batch_axis_is_left_out_of_the_configuration(house: House) -> None:
    config = config_of(house.lane)
    assert config["max_batch_size"] == tagged_family().max_batch_rows
    assert config["input"][0]["dims"] == []
