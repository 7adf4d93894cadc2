"""The whole HTTP side of a gateway inside the test's process, without sockets, for tests that are not coroutines."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx

from models.manifest import Family
from serving.codec.limits import CodecLimits
from serving.config import Settings
from serving.control import IndexEntry
from serving.core.errors import ControlRefused
from serving.door import Door
from serving.http.front import Front
from serving.http.infer import InferRoute
from serving.http.pages import build_pages
from serving.testing import FakeBackend
from tests.support.gateways import House

WITHIN_S = 60.0


class FixedStock:
    """A repository that holds what is served, and lets nobody change it."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        return [IndexEntry(family.name, family.version, "READY") for family in self._families]

    async def load(self, model: str, parameters: Mapping[str, str | int | bool] | None = None) -> None:
        raise ControlRefused("explicit model load / unload is not allowed if polling is enabled")

    unload = load


class Api:
    """A gateway around a backend that answers with its inputs, on an event loop in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        families: Sequence[Family],
        backend: FakeBackend | None = None,
        limits: CodecLimits | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._house: House
        self._client: httpx.AsyncClient
        self._do(self._open(folder, families, backend or FakeBackend(), limits or CodecLimits()))

    def call(self, method: str, path: str, **rest: Any) -> httpx.Response:
        """Send one request; `rest` as for `httpx.Client.request`. An error of the application is raised."""
        return self._do(self._client.request(method, path, **rest))

    def close(self) -> None:
        """End everything."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(WITHIN_S)

    async def _open(self, folder: Path, families: Sequence[Family], backend: FakeBackend, limits: CodecLimits) -> None:
        self._house = House(folder / "metrics", backend, families)
        house = self._house
        infer = InferRoute(house.gateway, Door(house.gateway, house.clock), limits, house.metrics, house.clock)
        settings = Settings.model_validate({"engine": {"runtime_dir": str(folder)}})
        settings.run_folder.mkdir(parents=True)
        front = Front(infer, build_pages(house.gateway, infer, house.metrics, FixedStock(families), settings))
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://api")
        house.gateway.ready = True

    async def _close(self) -> None:
        await self._client.aclose()
        await self._house.close()
