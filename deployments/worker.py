"""A worker replica of the split topology: every variant of every family, one batch at a time."""

import asyncio
import contextlib
from dataclasses import dataclass

from deployments.payload import Packed, pack, unpack
from deployments.shelf import Shelf
from models.canary import CanaryError
from models.manifest import LatencyProfile, ManifestError
from models.repository import RepositoryError
from models.trace_context import TRACEPARENT
from serving.config import Settings
from serving.load import WorkerLoad
from serving.local_pool import LocalPool
from serving.logs import LevelWatch, configure_logs
from serving.metrics import Metrics
from serving.ports import ModelFailed, VariantUnavailable
from serving.process_metrics import ProcessMetrics
from serving.run_folder import LOGS, METRICS


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch's result on its way back."""

    outputs: Packed
    compute_s: float
    service_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The model failed on the batch. A value, not an exception: Ray would wrap it beyond recognition."""

    message: str


@dataclass(frozen=True, slots=True)
class Away:
    """The endpoint of a remote variant did not answer as it must. A value for the same reason."""

    message: str


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """A model cannot be brought to this worker. A value for the same reason."""

    reason: str


class Worker:
    """Runs whole batches that a gateway formed."""

    async def __init__(self, settings_json: str) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        self._settings = Settings.model_validate_json(settings_json)
        configure_logs(self._settings.log, self._settings.run_folder / LOGS)
        self._level = LevelWatch(self._settings.run_folder)
        self._metrics = Metrics(self._settings.run_folder / METRICS)
        self._process = ProcessMetrics(self._metrics, "worker")
        self._pool = LocalPool({}, workers=1)
        self._load = WorkerLoad(self._settings.autoscaling.window_s)
        self._shelf = await asyncio.to_thread(Shelf, self._settings, self._pool)
        await self._shelf.open()
        self._tidying = asyncio.create_task(self._shelf.tidy())

    async def ready(self) -> bool:
        """Answers as soon as there is a worker."""
        return True

    async def load(self, model: str, digest: str, beside_traffic: bool) -> dict[str, str] | NotLoaded:
        """Have a model resident; tells the profiles of its variants on this worker's host, as JSON."""
        try:
            profiles = await self._shelf.hold(model, digest, beside_traffic=beside_traffic)
        except (ManifestError, CanaryError, RepositoryError) as error:
            return NotLoaded(str(error))
        return {name: profile.model_dump_json() for name, profile in profiles.items()}

    async def release(self, model: str) -> None:
        """A gateway needs the model no longer."""
        self._shelf.release(model)

    async def run(
        self,
        model: str,
        variant: str,
        inputs: Packed,
        budget_s: float,
        traceparent: str | None = None,
        *,
        worker: int = 0,  # noqa: ARG002  # read on the way here: `routing.Booked`
    ) -> Ran | Refused | Away:
        """One batch. A second one waits until the first is done. A remote variant goes on in the trace, if any."""
        TRACEPARENT.set(traceparent)
        try:
            await self._shelf.require(model)
        except (ManifestError, RepositoryError) as error:
            raise RuntimeError(f"{model} is not here and cannot be fetched: {error}") from error
        try:
            execution = await self._pool.run(model, variant, unpack(inputs), budget_s)
        except ModelFailed as error:
            return Refused(str(error))
        except VariantUnavailable as error:
            return Away(str(error))
        self._load.busy_s += execution.service_s
        return Ran(pack(execution.outputs), execution.compute_s, execution.service_s)

    async def hear(self, gateway: str, numbers: dict[str, float]) -> tuple[int, int]:
        """What a gateway is asked for; tells its place among the gateways, and how many there are."""
        return self._load.hear(gateway, numbers)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How loaded the workers are, for the autoscaler. Serve asks for it where there is one."""
        return self._load.stats()

    async def check_health(self) -> None:
        """Nothing to check beyond that this runs: a hung model shows as lost batches at the gateways.

        Ray asks every few seconds: the moment to look at itself, and for a changed log level.
        """
        self._level.follow()
        self._process.update()
        with contextlib.suppress(OSError):  # a full disk; the gateways say so
            self._metrics.flush()

    async def __del__(self) -> None:
        tidying = getattr(self, "_tidying", None)
        if tidying is not None:
            tidying.cancel()
        pool = getattr(self, "_pool", None)
        if pool is not None:
            await pool.close()
        metrics = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics.close()


def read_profiles(told: dict[str, str]) -> dict[str, LatencyProfile]:
    """What `Worker.load` told."""
    return {name: LatencyProfile.model_validate_json(text) for name, text in told.items()}
