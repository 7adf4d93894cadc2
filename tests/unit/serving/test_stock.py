"""Models that come and go over a fake engine: what is offered, what is told, and when memory is given back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from models.calibrate import Progress
from models.manifest import LatencyProfile, ManifestError
from models.repository import Artifact, RepositoryError, publish
from serving import holdings as holding
from serving import stock as module
from serving.catalog import Catalog
from serving.config import ModelSettings, SchedulerSettings
from serving.core.budget import RequestBudget
from serving.core.errors import ControlRefused, UnknownModel
from serving.dispatcher import Dispatcher
from serving.gateway import Call, Gateway
from serving.holdings import Holdings
from serving.lane import Lane
from serving.ledger import Ledger
from serving.metrics import Metrics, stat
from serving.stock import NOT_EXPLICIT, Stock
from serving.testing import FakeBackend, ManualClock
from tests.support import tiny_models

PATIENCE_S = 20.0
CONTENT = tiny_models.affine()


class FakeEngine:
    """Loads at once, unless told to fail."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.resident: set[str] = set()
        self.failing: set[str] = set()
        self.gently: dict[str, bool] = {}

    async def load(self, artifact: Artifact, progress: Progress, *, beside_traffic: bool) -> dict[str, LatencyProfile]:
        if artifact.key in self.failing:
            raise ManifestError(f"{artifact.key} does not load")
        self.resident.add(artifact.key)
        self.gently[artifact.key] = beside_traffic
        return {variant.name: tiny_models.profile((1, 1.1)) for variant in artifact.family.variants}

    async def drop(self, key: str) -> None:
        self.resident.discard(key)


class Shop:
    """One replica: a stock and all it stands on."""

    def __init__(self, folder: Path, settings: ModelSettings, number: int) -> None:
        self.clock = ManualClock(1000.0)
        self.engine = FakeEngine()
        self.metrics = Metrics(folder / f"metrics{number}")
        self.dispatcher = Dispatcher(self.engine.backend, (), self.clock)
        self.gateway = Gateway((), self.dispatcher, self.clock)
        self.catalog = Catalog(settings)
        self.ledger = Ledger(folder / "stock", settings)
        holdings = Holdings(self.engine, self.gateway, self._lane, self.metrics)
        self.stock = Stock(settings, self.catalog, self.ledger, holdings)

    def _lane(self, artifact: Artifact, profiles: object) -> Lane:
        return Lane(artifact.family, profiles, SchedulerSettings(), 1 << 20, self.metrics)  # type: ignore[arg-type]

    @property
    def offered(self) -> dict[str, list[str]]:
        return {name: list(versions) for name, versions in self.gateway.lanes.items()}

    def index(self) -> dict[str, tuple[str, str]]:
        return {f"{e.name}/{e.version}": (e.state, e.reason) for e in self.stock.index()}

    def loads(self, model: str, result: str) -> float:
        self.metrics.flush()
        return stat(self.metrics.collect(), "gearshift_model_loads_total", model=model, result=result)

    def call(self, lane: Lane) -> "asyncio.Task[object]":
        inputs = {"x": np.zeros((1, 2), np.float32), "tag": np.zeros((1, 1), np.float32)}
        call = Call(inputs, 1, RequestBudget(latency_s=1.0), self.clock())
        return asyncio.get_running_loop().create_task(self.gateway.infer(lane, call))

    async def close(self) -> None:
        await self.stock.close()
        await self.dispatcher.close()
        self.metrics.close()


Open = Callable[..., "Shop"]


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Makes replicas of one node over tmp_path/models, not yet open."""
    monkeypatch.setattr(module, "WATCH_S", 0.01)
    made: list[Shop] = []

    def make(**settings: object) -> Shop:
        chosen = ModelSettings(repository=tmp_path / "models", **settings)  # type: ignore[arg-type]
        made.append(Shop(tmp_path, chosen, len(made)))
        return made[-1]

    (tmp_path / "models").mkdir()
    yield make
    for one in made:
        await one.close()


def put(root: Path, version: int | str, name: str = "m") -> Path:
    family = tiny_models.family_of({"only": CONTENT}, name=name, version=str(version))
    return publish(root / "models", family, {"only.onnx": CONTENT})


def quiet(_: str) -> None:
    return


async def opened(one: Shop) -> Shop:
    await one.stock.open(quiet)
    one.stock.start()
    return one


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


class TestStart:
    async def test_the_latest_versions_are_served(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1), put(tmp_path, 2), put(tmp_path, 1, "other")
        one = await opened(shop())
        assert one.offered == {"m": ["2"], "other": ["1"]}
        assert one.index() == {"m/2": ("READY", ""), "other/1": ("READY", "")}
        assert not one.engine.gently["m/2"], "nobody is served yet: it may take all there is"

    async def test_a_version_that_does_not_load_leaves_its_place_to_the_one_before(
        self, shop: Open, tmp_path: Path
    ) -> None:
        put(tmp_path, 1), put(tmp_path, 2)
        one = shop()
        one.engine.failing = {"m/2"}
        await opened(one)
        assert one.offered == {"m": ["1"]}
        assert one.index()["m/2"] == ("UNAVAILABLE", "m/2 does not load")
        assert (one.loads("m", "loaded"), one.loads("m", "failed")) == (1, 1)

    async def test_nothing_to_serve_and_nothing_to_come_is_an_error(self, shop: Open, tmp_path: Path) -> None:
        with pytest.raises(RepositoryError, match="nothing to serve"):
            await shop().stock.open(quiet)
        assert (await opened(shop(control="poll"))).offered == {}
        assert (await opened(shop(control="explicit"))).offered == {}
        put(tmp_path, 1)
        (tmp_path / "models" / "m" / "1" / "only.onnx").write_bytes(b"damaged")
        with pytest.raises(RepositoryError, match="nothing to serve: .*SHA-256"):
            await shop(versions="all").stock.open(quiet)

    async def test_explicit_begins_with_what_is_listed(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1), put(tmp_path, 1, "other")
        one = await opened(shop(control="explicit", load=("other",)))
        assert one.offered == {"other": ["1"]}
        assert one.index() == {"m/": ("UNAVAILABLE", ""), "other/1": ("READY", "")}
        assert (await opened(shop(control="explicit", load=("*",)))).offered == {"m": ["1"], "other": ["1"]}


class TestCalls:
    async def test_load_and_unload(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="explicit"))
        await one.stock.load("m")
        assert one.offered == {"m": ["1"]}
        assert one.engine.gently["m/1"], "others may be served: it takes its time"
        await one.stock.load("m")
        assert one.loads("m", "loaded") == 1
        await one.stock.unload("m")
        with pytest.raises(UnknownModel, match="Request for unknown model: 'm' is not found"):
            one.gateway.lane("m")
        await until(lambda: one.index() == {"m/1": ("UNAVAILABLE", "unloaded")})
        assert one.engine.resident == set()
        await one.stock.unload("m")
        await one.stock.load("m")
        assert one.index() == {"m/1": ("READY", "")}

    async def test_only_the_explicit_mode_takes_calls(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        for control in ("none", "poll"):
            one = await opened(shop(control=control))
            for call in (one.stock.load, one.stock.unload):
                with pytest.raises(ControlRefused, match=NOT_EXPLICIT):
                    await call("m")

    @pytest.mark.parametrize("name", ["config", "file:1/model.onnx"])
    async def test_what_would_replace_the_repository_is_refused(self, shop: Open, tmp_path: Path, name: str) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="explicit"))
        with pytest.raises(ControlRefused, match=f"failed to load 'm', the parameter '{name}' is not offered"):
            await one.stock.load("m", {name: "x"})
        assert one.offered == {}

    async def test_an_unknown_model_is_told_in_tritons_words(self, shop: Open) -> None:
        one = await opened(shop(control="explicit"))
        for name in ("nobody", "..", "a/b"):
            with pytest.raises(ControlRefused, match=f"failed to load '{name}', failed to poll from model repository"):
                await one.stock.load(name)

    async def test_a_load_that_fails_changes_nothing(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="explicit", load=("m",)))
        put(tmp_path, 2)
        one.engine.failing = {"m/2"}
        with pytest.raises(ControlRefused, match="failed to load 'm', no version is available: version 2: m/2 does"):
            await one.stock.load("m")
        assert one.offered == {"m": ["1"]}
        assert one.engine.resident == {"m/1"}
        one.engine.failing = set()
        await one.stock.load("m")
        assert one.offered == {"m": ["2"]}

    async def test_one_bad_version_of_several_spoils_the_call_and_leaves_nothing(
        self, shop: Open, tmp_path: Path
    ) -> None:
        put(tmp_path, 1), put(tmp_path, 2)
        one = await opened(shop(control="explicit", versions="all"))
        one.engine.failing = {"m/2"}
        with pytest.raises(ControlRefused, match="version 2"):
            await one.stock.load("m")
        assert one.offered == {}
        assert one.engine.resident == set()

    async def test_a_served_version_whose_files_change_stays_what_it_was(self, shop: Open, tmp_path: Path) -> None:
        folder = put(tmp_path, 1)
        one = await opened(shop(control="explicit", load=("m",)))
        text = (folder / "family.json").read_text()
        (folder / "family.json").write_text(text.replace('"max_batch_rows": 256', '"max_batch_rows": 8'))
        await one.stock.load("m")
        assert one.gateway.lane("m").family.max_batch_rows == 256
        await one.stock.unload("m")
        await one.stock.load("m")
        assert one.gateway.lane("m").family.max_batch_rows == 8


class TestUpgrade:
    async def test_the_old_version_finishes_what_it_has_before_its_memory_goes(
        self, shop: Open, tmp_path: Path
    ) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="explicit", load=("m",)))
        old = one.gateway.lane("m")
        one.engine.backend.hold = True
        waiting = one.call(old)
        put(tmp_path, 2)
        batch = await self._batch_of(one, "m/1")
        one.engine.backend.hold = False
        await one.stock.load("m")
        assert one.gateway.lane("m").key == "m/2"
        assert one.index()["m/1"] == ("UNLOADING", "")
        assert one.engine.resident == {"m/1", "m/2"}
        batch.finish()
        await waiting
        await until(lambda: one.engine.resident == {"m/2"})
        assert one.index()["m/1"] == ("UNAVAILABLE", "unloaded")

    async def test_whoever_holds_the_old_version_may_still_use_it(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="explicit", load=("m",)))
        put(tmp_path, 2)
        with one.gateway.lane("m") as old:
            await one.stock.load("m")
            await asyncio.sleep(0.1)
            assert "m/1" in one.engine.resident
            await one.call(old)
        await until(lambda: one.engine.resident == {"m/2"})

    async def test_a_version_that_cannot_end_yet_cannot_come_back_yet(
        self, shop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path, 1)
        monkeypatch.setattr(holding, "ENDING_TIMEOUT_S", 0.05)
        one = await opened(shop(control="explicit", load=("m",)))
        with one.gateway.lane("m"):
            await one.stock.unload("m")
            with pytest.raises(ControlRefused, match="requests it has accepted still wait"):
                await one.stock.load("m")
            assert one.index() == {"m/1": ("UNLOADING", "")}
        await until(lambda: one.engine.resident == set())
        await one.stock.load("m")
        assert one.offered == {"m": ["1"]}

    async def test_metrics_say_which_version_is_offered(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="explicit", load=("m",)))
        put(tmp_path, 2)
        await one.stock.load("m")
        one.metrics.flush()
        found = one.metrics.collect()
        ready = {v: stat(found, "gearshift_variant_ready", model="m", version=v) for v in ("1", "2")}
        assert ready == {"1": 0, "2": 1}

    async def _batch_of(self, one: Shop, key: str) -> "object":
        async with asyncio.timeout(PATIENCE_S):
            while True:
                batch = await one.engine.backend.started()
                if batch.model == key and not batch.ended:
                    return batch


class TestPolling:
    async def test_the_repository_is_followed(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="poll", poll_s=0.02))
        put(tmp_path, 2)
        await until(lambda: one.offered == {"m": ["2"]})
        put(tmp_path, 1, "new")
        await until(lambda: one.offered == {"m": ["2"], "new": ["1"]})
        (tmp_path / "models" / "m" / "2").rename(tmp_path / "away")
        await until(lambda: one.offered == {"m": ["1"], "new": ["1"]})
        (tmp_path / "models" / "new").rename(tmp_path / "away too")
        await until(lambda: one.offered == {"m": ["1"]})

    async def test_a_version_that_is_back_before_it_ended_does_not_hold_up_the_rest(
        self, shop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = put(tmp_path, 1)
        put(tmp_path, 1, "other")
        monkeypatch.setattr(holding, "ENDING_TIMEOUT_S", 0.05)
        one = await opened(shop(control="poll", poll_s=3600.0))
        with one.gateway.lane("m"):
            first.rename(tmp_path / "away")
            await one.stock._look()
            (tmp_path / "away").rename(first)
            put(tmp_path, 2, "other")
            async with asyncio.timeout(PATIENCE_S):
                await one.stock._look()
        assert one.offered == {"other": ["2"]}
        await until(lambda: "m/1" not in one.engine.resident)
        one.catalog.forget("m")
        await one.stock._look()
        assert one.offered == {"m": ["1"], "other": ["2"]}

    async def test_an_empty_repository_is_taken_for_a_mistake(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="poll", poll_s=3600.0))
        (tmp_path / "models" / "m").rename(tmp_path / "away")
        with pytest.raises(RepositoryError, match="empty all of a sudden"):
            await one.stock._look()
        assert one.offered == {"m": ["1"]}

    async def test_a_served_version_that_is_damaged_on_disk_is_told_and_stays(self, shop: Open, tmp_path: Path) -> None:
        folder = put(tmp_path, 1)
        one = await opened(shop(control="poll", poll_s=3600.0))
        (folder / "only.onnx").write_bytes(b"damaged")
        await one.stock._look()
        assert one.offered == {"m": ["1"]}
        assert one.index()["m/1"] == ("READY", "")

    async def test_one_replica_of_the_node_polls_and_the_other_follows(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="poll", poll_s=0.02))
        await until(one.ledger.lead)
        two = await opened(shop(control="poll", poll_s=0.02))
        put(tmp_path, 2)
        await until(lambda: one.offered == two.offered == {"m": ["2"]})
        assert not two.ledger.lead()


class TestNode:
    async def test_a_call_returns_when_every_replica_serves(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        settings = {"control": "explicit"}
        one, two = await opened(shop(**settings)), await opened(shop(**settings))
        await one.stock.load("m")
        assert two.offered == {"m": ["1"]}
        await two.stock.unload("m")
        assert one.offered == {}

    async def test_a_replica_that_cannot_is_named_and_keeps_what_it_has(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        settings = {"control": "explicit", "load": ("m",)}
        one, two = await opened(shop(**settings)), await opened(shop(**settings))
        put(tmp_path, 2)
        two.engine.failing = {"m/2"}
        with pytest.raises(ControlRefused, match=f"on every replica of the node, replica {two.ledger.name}: m/2 does"):
            await one.stock.load("m")
        assert (one.offered, two.offered) == ({"m": ["2"]}, {"m": ["1"]})

    async def test_a_version_that_came_back_with_other_content_is_taken_anew_by_all(
        self, shop: Open, tmp_path: Path
    ) -> None:
        folder = put(tmp_path, 1)
        settings = {"control": "explicit", "load": ("m",)}
        one, two = await opened(shop(**settings)), await opened(shop(**settings))
        await two.stock.close()  # it misses that the model was unloaded in between
        text = (folder / "family.json").read_text()
        (folder / "family.json").write_text(text.replace('"max_batch_rows": 256', '"max_batch_rows": 8'))
        await one.stock.unload("m")
        await one.stock.load("m")
        agreement = two.ledger.read()
        assert agreement is not None
        await two.stock._follow(agreement)
        assert two.gateway.lane("m").family.max_batch_rows == 8

    async def test_a_replica_that_does_not_follow_is_named(
        self, shop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path, 1)
        monkeypatch.setattr(module, "FOLLOW_TIMEOUT_S", 0.1)
        one, two = await opened(shop(control="explicit")), shop(control="explicit")
        await two.stock.open(quiet)  # and never starts to watch
        with pytest.raises(ControlRefused, match=f"not followed within 0.1 s by: {two.ledger.name}"):
            await one.stock.load("m")

    async def test_a_replica_that_starts_later_serves_what_calls_have_loaded(self, shop: Open, tmp_path: Path) -> None:
        put(tmp_path, 1)
        one = await opened(shop(control="explicit"))
        await one.stock.load("m")
        put(tmp_path, 2)
        assert (await opened(shop(control="explicit"))).offered == {"m": ["1"]}

    async def test_under_the_other_modes_a_start_is_a_fresh_look_unless_somebody_serves(
        self, shop: Open, tmp_path: Path
    ) -> None:
        put(tmp_path, 1)
        one = await opened(shop())
        put(tmp_path, 2)
        two = await opened(shop())
        assert two.offered == {"m": ["1"]}
        for gone in (one, two):
            await gone.stock.close()
        assert (await opened(shop())).offered == {"m": ["2"]}
