from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from serving.control import IndexEntry
from serving.core.errors import ControlRefused, GearshiftError
from serving.http.errors import status_of
from serving.http.repository import MAX_BODY_BYTES, add_repository

ENTRIES = [
    IndexEntry("a", "1", "READY"),
    IndexEntry("b", "2", "UNAVAILABLE", "damaged"),
    IndexEntry("c", "", "UNAVAILABLE"),
]


class FakeControl:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, object]] = []

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        return [entry for entry in ENTRIES if entry.state == "READY" or not ready_only]

    async def load(self, model: str, parameters: Mapping[str, str | int | bool] | None = None) -> None:
        self.calls.append(("load", model, parameters))
        if model == "bad":
            raise ControlRefused("failed to load 'bad', no version is available")

    async def unload(self, model: str) -> None:
        self.calls.append(("unload", model, None))


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def client(control: FakeControl) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    add_repository(app, control)

    @app.exception_handler(GearshiftError)
    async def ours(_: object, error: GearshiftError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=status_of(error))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


async def test_the_index_is_told_as_triton_tells_it(client: httpx.AsyncClient) -> None:
    ready = {"name": "a", "version": "1", "state": "READY", "reason": ""}
    everything = [ready, {"name": "b", "version": "2", "state": "UNAVAILABLE", "reason": "damaged"}, {"name": "c"}]
    for body in (b"", b"  ", b"{}", b'{"ready": false}'):
        assert (await client.post("/v2/repository/index", content=body)).json() == everything
    assert (await client.post("/v2/repository/index", json={"ready": True})).json() == [ready]


async def test_calls_go_on_with_their_parameters(client: httpx.AsyncClient, control: FakeControl) -> None:
    for verb, body in (("load", b""), ("load", b'{"parameters": {"config": "{}"}}'), ("unload", b"{}")):
        answer = await client.post(f"/v2/repository/models/m/{verb}", content=body)
        assert (answer.status_code, answer.content) == (200, b"")
    await client.post("/v2/repository/models/m/unload", json={"parameters": {"unload_dependents": True}})
    assert control.calls == [
        ("load", "m", {}), ("load", "m", {"config": "{}"}), ("unload", "m", None), ("unload", "m", None)
    ]  # fmt: skip


async def test_what_control_refuses_is_a_400(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v2/repository/models/bad/load")
    assert answer.status_code == 400
    assert answer.json() == {"error": "failed to load 'bad', no version is available"}


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("index", b"{", "not valid JSON"),
        ("index", b"[]", "must be a JSON object"),
        ("index", b'{"ready": 1}', "'ready' must be true or false"),
        ("models/m/load", b'{"parameters": []}', "'parameters' must be an object"),
        ("models/m/load", b'{"parameters": {"x": [1]}}', "'parameters' must be an object"),
        ("models/m/unload", b'{"parameters": {"x": null}}', "'parameters' must be an object"),
    ],
)
async def test_bodies_that_make_no_sense(
    client: httpx.AsyncClient, control: FakeControl, path: str, body: bytes, told: str
) -> None:
    answer = await client.post(f"/v2/repository/{path}", content=body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]
    assert control.calls == []


async def test_a_body_too_large_is_not_read_to_its_end(client: httpx.AsyncClient) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    answer: Any = await client.post("/v2/repository/models/m/load", content=pieces())
    assert answer.status_code == 413
    assert sent <= MAX_BODY_BYTES + 4 * 65536
