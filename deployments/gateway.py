"""A gateway replica under Ray Serve. Ray starts, checks, replaces and stops it; requests come by its own listener."""

from collections.abc import Sequence
from typing import Any

from deployments.handles import HandleBackend
from deployments.worker import read_profiles
from models.calibrate import Progress
from models.repository import Artifact
from serving.config import Settings
from serving.core.workers import fair_share
from serving.logs import configure_logs
from serving.replica import Engine, Replica, local_engine
from serving.run_folder import LOGS


class GatewayReplica:
    """The whole gateway process, as a deployment."""

    async def __init__(self, settings_json: str, workers: Any = None) -> None:  # type: ignore[misc]  # Ray awaits it
        """`workers`: handle of the worker deployment in the split topology."""
        settings = Settings.model_validate_json(settings_json)
        configure_logs(settings.log, settings.run_folder / LOGS)
        factory = local_engine if workers is None else _SplitEngine(workers)
        self._replica = await Replica.start(settings, factory)

    async def check_health(self) -> None:
        """Ray replaces the replica when this raises."""
        self._replica.check()

    async def addresses(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """(host, port) of the API and of the metrics page."""
        return self._replica.address, self._replica.metrics_address

    async def __del__(self) -> None:
        replica = getattr(self, "_replica", None)
        if replica is not None:
            await replica.stop()


class _SplitEngine:
    """Makes an engine of workers elsewhere."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def __call__(self, settings: Settings, artifacts: Sequence[Artifact], progress: Progress) -> Engine:
        progress("waiting for the workers")
        profiles = read_profiles(await self._handle.profiles.remote())
        missing = {artifact.key for artifact in artifacts} - profiles.keys()
        if missing:
            raise RuntimeError(f"the workers do not hold {sorted(missing)}: do they see the same repository?")
        share = fair_share(settings.worker_replicas(), settings.engine.replicas)
        return Engine(HandleBackend(self._handle, share), profiles)
