"""The tests of whatever touches sockets run on both event loops."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

_ON_BOTH_LOOPS = ("test_protocol", "test_listener", "test_server")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, LoopFactory]:
    if item.path.stem in _ON_BOTH_LOOPS:
        return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}
