"""The engine of the split topology: models live in worker replicas, and every worker holds every model."""

import asyncio
import contextlib
from typing import Any

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from deployments.handles import HandleBackend
from deployments.worker import NotLoaded, read_profiles
from models.calibrate import Progress
from models.manifest import LatencyProfile
from models.repository import Artifact
from serving.config import Settings
from serving.core.workers import own_workers
from serving.engine import Engine, EngineError

LOAD_TIMEOUT_S = 180.0
"""For all workers to load and calibrate one model."""
RELEASE_TIMEOUT_S = 10.0

_AWAY = (RayError, RayServeException, grpc.aio.AioRpcError, asyncio.TimeoutError, ConnectionError)


class SplitEngine:
    """Asks all workers at once to load or drop a model."""

    def __init__(self, handle: Any, backend: HandleBackend) -> None:
        self.backend = backend
        self._handle = handle

    async def load(self, artifact: Artifact, progress: Progress, *, beside_traffic: bool) -> dict[str, LatencyProfile]:
        """See `Engine.load`. A worker that starts later finds the model by itself."""
        progress(f"loading {artifact.key} on the workers")
        try:
            answers = await self._handle.broadcast("load", artifact.key, artifact.digest, beside_traffic).results_async(
                timeout_s=LOAD_TIMEOUT_S
            )
        except _AWAY as error:
            raise EngineError(f"not every worker has loaded it: {type(error).__name__}") from error
        for answer in answers:
            if isinstance(answer, NotLoaded):
                raise EngineError(answer.reason)
        return read_profiles(answers[0])

    async def drop(self, key: str) -> None:
        """See `Engine.drop`. A worker lets go when no gateway has asked for the model in a while."""
        with contextlib.suppress(*_AWAY):  # a worker that cannot be told holds on to it, which costs memory only
            await self._handle.broadcast("release", key).results_async(timeout_s=RELEASE_TIMEOUT_S)


async def split_engine(handle: Any, settings: Settings, progress: Progress) -> Engine:
    """An engine over the worker deployment, once it answers."""
    progress("waiting for the workers")
    await handle.ready.remote()
    # Which place is its own among the gateways is told by the first beat.
    own = own_workers(settings.worker_replicas(), settings.engine.replicas, 0)
    return SplitEngine(handle, HandleBackend(handle, own))
