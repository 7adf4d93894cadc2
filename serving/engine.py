"""What a gateway runs its models with: where batches go, and how a model gets there and away again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from models.calibrate import QUIET_DUTY, Progress, known_profiles, profile_family
from models.canary import try_out
from models.manifest import LatencyProfile
from models.repository import Artifact
from models.runner import Runner, open_variants
from serving.config import Settings
from serving.local_pool import LocalPool
from serving.memory import give_back
from serving.ports import VariantBackend
from serving.threads import in_daemon

Profiles = Mapping[str, dict[str, LatencyProfile]]
"""Profiles by model key, then by variant name."""


class EngineError(RuntimeError):
    """A model could not be brought to where it would run; the message says why."""


class Engine(Protocol):
    """Where models run, and how they get there."""

    @property
    def backend(self) -> VariantBackend:
        """The port batches go through."""
        ...

    async def load(self, artifact: Artifact, progress: Progress, *, beside_traffic: bool) -> dict[str, LatencyProfile]:
        """Make every variant resident on all workers; returns the profiles by variant.

        `beside_traffic`: others are being served meanwhile. Then an unknown model is first tried in a process of its
        own, and measured with many pauses. Raises `ManifestError`, `CanaryError` or `EngineError`; nothing is left
        behind then.
        """
        ...

    async def drop(self, key: str) -> None:
        """Let go of a model's variants. No batch of it is in flight or will come."""
        ...


EngineFactory = Callable[[Settings, Progress], Awaitable[Engine]]


class LocalEngine:
    """Sessions of every variant in threads of this process."""

    def __init__(self, settings: Settings, pool: LocalPool) -> None:
        self.backend = pool
        self._settings = settings

    async def load(self, artifact: Artifact, progress: Progress, *, beside_traffic: bool) -> dict[str, LatencyProfile]:
        """See `Engine.load`."""
        return await in_daemon(lambda: self._load(artifact, progress, beside_traffic), "gearshift-load")

    async def drop(self, key: str) -> None:
        """See `Engine.drop`."""
        self.backend.drop(key)
        await asyncio.to_thread(give_back)

    def _load(self, artifact: Artifact, progress: Progress, beside_traffic: bool) -> dict[str, LatencyProfile]:
        sessions, profiles = bring_up(self._settings, artifact, progress, beside_traffic=beside_traffic)
        self.backend.add(sessions)
        del sessions
        give_back()  # what was read and parsed on the way
        return profiles


async def local_engine(settings: Settings, progress: Progress) -> Engine:  # noqa: ARG001 - the signature of a factory
    """An engine of this process, without models yet."""
    return LocalEngine(settings, LocalPool({}, settings.thread_workers()))


def bring_up(
    settings: Settings, artifact: Artifact, progress: Progress, *, beside_traffic: bool
) -> tuple[dict[tuple[str, str], Runner], dict[str, LatencyProfile]]:
    """Load and calibrate one model: its sessions and its profiles. Raises `ManifestError` or `CanaryError`.

    Where models come without somebody who watches the start, unknown ones are tried before they are loaded.
    """
    if beside_traffic or settings.models.control != "none":
        try_unknown(settings, artifact, progress)
    sessions = load_sessions((artifact,), progress)
    duty = QUIET_DUTY if beside_traffic else 1.0
    return sessions, calibrated(settings, (artifact,), sessions, progress, duty=duty)[artifact.key]


def try_unknown(settings: Settings, artifact: Artifact, progress: Progress) -> None:
    """Try a model in a process of its own, unless it has run on this host before: then its profiles are known.

    Raises `CanaryError`.
    """
    known = known_profiles(
        artifact.family, cache_dir=settings.models.cache_dir, watts_per_core=settings.models.watts_per_core
    )
    if known is None:
        progress(f"trying {artifact.key}")
        try_out(artifact)


def load_sessions(artifacts: Sequence[Artifact], progress: Progress) -> dict[tuple[str, str], Runner]:
    """A runner for every variant, by (model key, variant name). Raises `ManifestError`."""
    runners = {}
    for artifact in artifacts:
        progress(f"loading {artifact.key}")
        for name, runner in open_variants(artifact).items():
            runners[artifact.key, name] = runner
    return runners


def calibrated(
    settings: Settings,
    artifacts: Sequence[Artifact],
    sessions: Mapping[tuple[str, str], Runner],
    progress: Progress,
    *,
    refresh: bool = False,
    duty: float = 1.0,
) -> Profiles:
    """The profiles of every variant on this host, measured where they are not known yet (`refresh`: anew)."""
    return {
        artifact.key: profile_family(
            artifact.family,
            lambda variant, key=artifact.key: sessions[key, variant.name],  # type: ignore[misc]  # bound per artifact
            cache_dir=settings.models.cache_dir,
            watts_per_core=settings.models.watts_per_core,
            refresh=refresh,
            duty=duty,
            progress=progress,
        )
        for artifact in artifacts
    }
