"""The models one worker holds: brought by the gateways, or fetched when a batch asks for one that is missing."""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from models.canary import CanaryError
from models.manifest import LatencyProfile, ManifestError
from models.repository import Artifact, RepositoryError
from serving.catalog import Catalog, names_at_start
from serving.config import Settings
from serving.engine import bring_up, load_sessions
from serving.ledger import Ledger
from serving.local_pool import LocalPool
from serving.memory import give_back
from serving.run_folder import STOCK

IDLE_S = 10.0
"""How long nobody must have asked for an unwanted model before it goes: gateways end it at different moments."""
TIDY_S = 1.0

log = logging.getLogger("gearshift.worker")

Profiles = dict[str, LatencyProfile]


@dataclass(slots=True)
class _Kept:
    """A model that is resident."""

    digest: str
    profiles: Profiles | None = None
    """None when only a batch has asked for it, which needs none."""
    used_s: float = field(default_factory=time.monotonic)


class Shelf:
    """Loads models into a worker's pool, one at a time, and lets go of those nobody wants. Runs in one event loop."""

    def __init__(self, settings: Settings, pool: LocalPool) -> None:
        self._settings = settings
        self._pool = pool
        self._catalog = Catalog(settings.models)
        self._kept: dict[str, _Kept] = {}
        self._unwanted: set[str] = set()
        self._loading = asyncio.Lock()

    async def open(self) -> None:
        """Begin with what the node has agreed on, or else with what the settings say.

        What cannot be loaded is left to the gateways to tell. Raises `RepositoryError`.
        """
        for artifact in await asyncio.to_thread(self._at_start):
            try:
                await self.hold(artifact.key, artifact.digest, beside_traffic=False)
            except (ManifestError, CanaryError) as error:
                log.warning("not loaded: %s: %s", artifact.key, error)

    async def hold(self, key: str, digest: str, *, beside_traffic: bool) -> Profiles:
        """Have a model resident, and tell its profiles. Raises `ManifestError`, `CanaryError` or `RepositoryError`."""
        async with self._loading:
            self._unwanted.discard(key)
            kept = self._kept.get(key)
            if kept is not None and kept.digest == digest and kept.profiles is not None:
                return kept.profiles
            artifact = await asyncio.to_thread(self._catalog.open, *key.split("/"))
            if artifact.digest != digest:
                raise ManifestError(f"{key}: the worker's repository has other files than the gateway's")
            sessions, profiles = await asyncio.to_thread(
                bring_up, self._settings, artifact, lambda _: None, beside_traffic=beside_traffic
            )
            self._pool.add(sessions)
            self._kept[key] = _Kept(digest, profiles)
            return profiles

    async def require(self, key: str) -> None:
        """A batch is about to run on the model: fetch it when it is missing. Raises as `hold`."""
        kept = self._kept.get(key)
        if kept is None:
            async with self._loading:
                if key not in self._kept:
                    artifact = await asyncio.to_thread(self._catalog.open, *key.split("/"))
                    self._pool.add(await asyncio.to_thread(load_sessions, (artifact,), lambda _: None))
                    self._kept[key] = _Kept(artifact.digest)
                    log.info("loaded on demand", extra={"model": key})
            kept = self._kept[key]
        kept.used_s = time.monotonic()

    def release(self, key: str) -> None:
        """One gateway needs the model no longer; others may."""
        self._unwanted.add(key)

    async def tidy(self) -> None:
        """Let go of unwanted models, for ever."""
        while True:
            await asyncio.sleep(TIDY_S)
            for key in tuple(self._unwanted):
                kept = self._kept.get(key)
                if kept is None or self._loading.locked():
                    continue
                if time.monotonic() - kept.used_s > IDLE_S:
                    del self._kept[key]
                    self._pool.drop(key)
                    await asyncio.to_thread(give_back)
                    log.info("unloaded", extra={"model": key})

    def _at_start(self) -> tuple[Artifact, ...]:
        agreement = Ledger(self._settings.run_folder / STOCK, self._settings.models).read()
        if agreement is None:
            return self._catalog.survey(names_at_start(self._settings.models)).artifacts
        found = []
        for name, versions in agreement.models.items():
            for version in versions:
                try:
                    found.append(self._catalog.open(name, version))
                except (ManifestError, RepositoryError) as error:
                    log.warning("not loaded: %s/%s: %s", name, version, error)
        return tuple(found)
