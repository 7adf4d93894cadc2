from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import House


@pytest.fixture
async def make_house(tmp_path: Path) -> AsyncIterator[Callable[..., House]]:
    """Makes houses, with the arguments of `House` behind the folder, that are closed after the test."""
    houses: list[House] = []

    def make(*args: Any, **rest: Any) -> House:
        houses.append(House(tmp_path / f"metrics{len(houses)}", *args, **rest))
        return houses[-1]

    yield make
    for house in houses:
        await house.close()


@pytest.fixture
async def house(make_house: Callable[..., House]) -> House:
    """A gateway with one model and one worker whose batches end when the test says so."""
    return make_house()
