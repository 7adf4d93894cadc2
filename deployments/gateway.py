"""A gateway replica under Ray Serve. Ray starts, checks, replaces and stops it; requests come by its own listener.

On a cluster Ray's ingress calls it too, for whoever expects the standard port.
"""

from functools import partial
from typing import Any

from deployments.beat import Beat
from deployments.handles import HandleBackend
from deployments.ingress import BehindProxy
from deployments.split import split_engine
from serving.config import Settings
from serving.engine import local_engine
from serving.http.front import Asgi
from serving.logs import configure_logs
from serving.replica import Replica
from serving.run_folder import LOGS


class GatewayReplica:
    """The whole gateway process, as a deployment."""

    async def __init__(self, settings_json: str, workers: Any = None) -> None:  # type: ignore[misc]  # Ray awaits it
        """`workers`: handle of the worker deployment in the split topology."""
        settings = Settings.model_validate_json(settings_json)
        configure_logs(settings.log, settings.run_folder / LOGS)
        factory = local_engine if workers is None else partial(split_engine, workers)
        self._replica = await Replica.start(settings, factory)
        self._beat: Beat | None = None
        backend = self._replica.backend
        if isinstance(backend, HandleBackend):
            self._beat = Beat(workers, backend, lambda: self._replica.load.latest)

    async def check_health(self) -> None:
        """Ray replaces the replica when this raises."""
        self._replica.check()

    def __serve_build_asgi_app__(self) -> Asgi:  # the name is Ray Serve's
        """What Ray's own ingress calls on a cluster: the same application that the own listener serves."""
        return BehindProxy(self._replica.front)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How loaded this replica is, for the autoscaler. Serve asks for it where there is one."""
        load = self._replica.load.latest
        return {} if load is None else load.flat()

    async def addresses(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """(host, port) of the API and of the metrics page."""
        return self._replica.address, self._replica.metrics_address

    async def __del__(self) -> None:
        beat = getattr(self, "_beat", None)
        if beat is not None:
            await beat.close()
        replica = getattr(self, "_replica", None)
        if replica is not None:
            await replica.stop()
