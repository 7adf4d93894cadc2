import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments import shelf as module
from deployments.shelf import Shelf
from models.manifest import ManifestError
from models.repository import Artifact, open_family, publish
from serving.config import Settings, load_settings
from serving.ledger import Ledger
from serving.local_pool import LocalPool
from serving.run_folder import STOCK
from tests.support import tiny_models

CONTENT = tiny_models.affine()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        environ={},
        overrides={
            "models": {"repository": tmp_path / "models", "cache_dir": tmp_path / "profiles", "control": "poll"},
            "engine": {"runtime_dir": tmp_path / "run"},
        },
    )


@pytest.fixture
async def pool() -> AsyncIterator[LocalPool]:
    pool = LocalPool({}, workers=1)
    yield pool
    await pool.close()


def put(settings: Settings, version: str, name: str = "m") -> Artifact:
    family = tiny_models.family_of({"only": CONTENT}, name=name, version=version, max_batch_rows=2)
    return open_family(publish(Path(str(settings.models.repository)), family, {"only.onnx": CONTENT}))


async def test_a_worker_begins_with_what_the_settings_say(settings: Settings, pool: LocalPool) -> None:
    put(settings, "1"), put(settings, "2")
    await Shelf(settings, pool).open()
    assert (pool.holds("m/1"), pool.holds("m/2")) == (False, True)


async def test_a_worker_begins_with_what_the_node_agreed_on(settings: Settings, pool: LocalPool) -> None:
    first, _ = put(settings, "1"), put(settings, "2")
    ledger = Ledger(settings.run_folder / STOCK, settings.models)
    ledger.agree(lambda _: {"m": {"1": first.digest, "7": "gone"}})
    await Shelf(settings, pool).open()
    assert (pool.holds("m/1"), pool.holds("m/2")) == (True, False)


async def test_gateways_bring_models_and_learn_their_profiles(settings: Settings, pool: LocalPool) -> None:
    artifact = put(settings, "1")
    shelf = Shelf(settings, pool)
    profiles = await shelf.hold("m/1", artifact.digest, beside_traffic=False)
    assert profiles.keys() == {"only"}
    assert await shelf.hold("m/1", artifact.digest, beside_traffic=False) is profiles
    with pytest.raises(ManifestError, match="other files than the gateway's"):
        await shelf.hold("m/1", "another", beside_traffic=False)
    with pytest.raises(ManifestError):
        await shelf.hold("m/9", artifact.digest, beside_traffic=False)


async def test_a_batch_fetches_what_is_missing_once(
    settings: Settings, pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings, "1")
    shelf = Shelf(settings, pool)
    loaded: list[object] = []
    real = module.load_sessions
    monkeypatch.setattr(module, "load_sessions", lambda found, p: (loaded.append(found), real(found, p))[1])
    await asyncio.gather(*(shelf.require("m/1") for _ in range(8)))
    assert len(loaded) == 1
    assert pool.holds("m/1")
    with pytest.raises(ManifestError):
        await shelf.require("m/9")


async def test_what_no_gateway_wants_goes_when_no_batch_has_asked_for_it(
    settings: Settings, pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIDY_S", 0.01)
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    first, second = put(settings, "1"), put(settings, "2")
    shelf = Shelf(settings, pool)
    for artifact in (first, second):
        await shelf.hold(artifact.key, artifact.digest, beside_traffic=False)
    tidying = asyncio.create_task(shelf.tidy())
    shelf.release("m/1")
    async with asyncio.timeout(20):
        while pool.holds("m/1"):  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0.01)
    assert pool.holds("m/2")
    tidying.cancel()


async def test_a_model_that_is_wanted_again_stays(
    settings: Settings, pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIDY_S", 0.01)
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    artifact = put(settings, "1")
    shelf = Shelf(settings, pool)
    await shelf.hold("m/1", artifact.digest, beside_traffic=False)
    shelf.release("m/1")
    await shelf.hold("m/1", artifact.digest, beside_traffic=False)
    tidying = asyncio.create_task(shelf.tidy())
    await asyncio.sleep(0.1)
    assert pool.holds("m/1")
    tidying.cancel()
