"""The versions one replica holds: those that are coming up, those it offers, those that finish what they have."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from models.calibrate import Progress, random_inputs
from models.canary import CanaryError
from models.manifest import LatencyProfile, ManifestError
from models.repository import Artifact
from serving.config import ConfigError
from serving.control import IndexEntry, State
from serving.engine import Engine, EngineError
from serving.gateway import Gateway
from serving.lane import Lane
from serving.metrics import Metrics
from serving.ports import ExecutionError, ModelFailed

WARM_UP_RUNS = 3
WARM_UP_BUDGET_S = 30.0
ENDING_TIMEOUT_S = 30.0
"""How long a version that is wanted again waits for its own end. Budgets may be an hour."""
UNLOADED = "unloaded"
STILL_ENDING = "it is being unloaded, and requests it has accepted still wait: try again later"

log = logging.getLogger("gearshift.stock")

MakeLane = Callable[[Artifact, Mapping[str, LatencyProfile]], Lane]


class HoldError(ValueError):
    """A version cannot be loaded here; the message says why, and nothing of it is left."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A version whose variants are resident and warm."""

    artifact: Artifact
    lane: Lane


class Holdings:
    """Brings versions up beside whatever is served, offers them, and lets them end. Keys are "name/version"."""

    def __init__(self, engine: Engine, gateway: Gateway, make_lane: MakeLane, metrics: Metrics) -> None:
        self.progress: Progress = lambda _: None
        self.beside_traffic = False
        """Whether others are being served while versions come up."""
        self.reasons: dict[str, str] = {}
        """Why versions are not served, by key."""
        self._engine = engine
        self._gateway = gateway
        self._make_lane = make_lane
        self._metrics = metrics
        self._held: dict[str, _Held] = {}
        self._loading: set[str] = set()
        self._ending: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._held

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """What is held, by key."""
        return {key: held.artifact for key, held in self._held.items()}

    async def hold(self, artifact: Artifact) -> None:
        """Load, calibrate and warm one version. Raises `HoldError`."""
        key, started_s = artifact.key, time.monotonic()
        await self._see_it_end(key)
        self._loading.add(key)
        try:
            profiles = await self._engine.load(artifact, self.progress, beside_traffic=self.beside_traffic)
            lane = self._make_lane(artifact, profiles)
            await self._warm_up(lane)
        except (ManifestError, CanaryError, EngineError, ExecutionError, ConfigError) as error:
            if isinstance(error, ConfigError) and not self.beside_traffic:
                raise  # the settings are wrong, not the model: that stops a start
            await self._engine.drop(key)
            raise HoldError(str(error)) from error
        finally:
            self._loading.discard(key)
        self._held[key] = _Held(artifact, lane)
        self.count(artifact.family.name, "loaded")
        log.info("loaded", extra={"model": key, "seconds": round(time.monotonic() - started_s, 2)})

    def offer(self, wanted: Collection[str], spoilt: Collection[str]) -> None:
        """Serve the wanted ones of those that are held, and nothing else; but models that are `spoilt` lose nothing."""
        offered = self._offered()
        coming = [held.lane for key, held in self._held.items() if key in wanted and key not in offered]
        going = [lane for key, lane in offered.items() if key not in wanted and name_of(key) not in spoilt]
        self._exchange(coming, going)

    def withdraw(self, digests: Mapping[str, str]) -> None:
        """Offer no version any longer whose content is not the one of that digest."""
        lanes = self._offered()
        self._exchange([], [lanes[key] for key, held in self._held.items() if _is_other(key, held, digests, lanes)])

    async def forgo_unoffered(self) -> None:
        """Let go of what was brought up and then not agreed on."""
        offered = self._offered()
        for key in [key for key in self._held if key not in offered]:
            self._held.pop(key).lane.retire()
            await self._engine.drop(key)

    async def close(self) -> None:
        """Wait for nothing any more. What is offered stays so until the gateway ends."""
        tasks = list(self._ending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def refuse(self, key: str, reason: str) -> None:
        """Keep, and tell once, why a version is not served."""
        if self.reasons.get(key) != reason:
            what = "served as it was loaded" if key in self._held else "not served"
            log.error("%s: %s: %s", what, key, reason)
        self.reasons[key] = reason

    def states(self) -> dict[str, IndexEntry]:
        """Every version known here, by key."""
        found = {key: _entry(key, "UNAVAILABLE", reason) for key, reason in self.reasons.items()}
        found |= {key: _entry(key, "LOADING") for key in self._loading}
        found |= {key: _entry(key, "UNLOADING") for key in self._ending}
        return found | {key: _entry(key, "READY") for key in self._offered()}

    def count(self, model: str, result: str) -> None:
        """`model` is one of the repository's, never a caller's invention."""
        self._metrics.counter("gearshift_model_loads_total", model, result).value += 1

    def _offered(self) -> dict[str, Lane]:
        return {lane.key: lane for versions in self._gateway.lanes.values() for lane in versions.values()}

    def _exchange(self, coming: Sequence[Lane], going: Sequence[Lane]) -> None:
        self._gateway.exchange(coming, going)
        for lane in coming:
            self.reasons.pop(lane.key, None)
        for lane in going:
            del self._held[lane.key]
            self._ending[lane.key] = asyncio.create_task(self._end(lane))

    async def _see_it_end(self, key: str) -> None:
        if key in self._ending:
            await asyncio.wait([self._ending[key]], timeout=ENDING_TIMEOUT_S)
        if key in self._ending:
            raise HoldError(STILL_ENDING)

    async def _end(self, lane: Lane) -> None:
        """Let a version that takes no new requests finish, and give its memory back."""
        try:
            await self._gateway.drained(lane)
            await self._engine.drop(lane.key)
        finally:
            del self._ending[lane.key]
        self.reasons[lane.key] = UNLOADED
        self.count(lane.family.name, "unloaded")
        log.info("unloaded", extra={"model": lane.key})

    async def _warm_up(self, lane: Lane) -> None:
        """Run every variant a few times: first runs allocate, and callers should not wait for that.

        On every worker at once, but beside traffic one run at a time.
        """
        backend = self._engine.backend
        at_once = 1 if self.beside_traffic else backend.workers
        inputs = random_inputs(lane.family.inputs, 1)
        for variant in lane.variants:
            if variant.elsewhere:
                continue  # asked by `serving.remotes`, in its own time
            for _ in range(WARM_UP_RUNS):
                with contextlib.suppress(ModelFailed):  # random inputs need not make sense to every model
                    runs = [
                        backend.run(lane.key, variant.name, inputs, WARM_UP_BUDGET_S, worker)
                        for worker in range(at_once)
                    ]
                    await asyncio.gather(*runs)


def name_of(key: str) -> str:
    """The model's part of a key."""
    return key.partition("/")[0]


def _is_other(key: str, held: _Held, digests: Mapping[str, str], offered: Mapping[str, Lane]) -> bool:
    return key in offered and digests.get(key, held.artifact.digest) != held.artifact.digest


def _entry(key: str, state: State, reason: str = "") -> IndexEntry:
    name, _, version = key.partition("/")
    return IndexEntry(name, version, state, reason)
