"""A worker replica of the split topology: every variant of every family, one batch at a time."""

import asyncio
from dataclasses import dataclass

from deployments.payload import Packed, pack, unpack
from models.manifest import LatencyProfile
from serving.catalog import open_catalog
from serving.config import Settings
from serving.local_pool import LocalPool
from serving.logs import configure_logs
from serving.ports import ModelFailed
from serving.replica import Profiles, calibrated, load_sessions
from serving.run_folder import LOGS


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


class Worker:
    """Runs whole batches that a gateway formed."""

    async def __init__(self, settings_json: str) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        self._settings = Settings.model_validate_json(settings_json)
        configure_logs(self._settings.log, self._settings.run_folder / LOGS)
        self._profiles: Profiles = {}
        self._pool = await asyncio.to_thread(self._load)

    async def profiles(self) -> dict[str, dict[str, str]]:
        """The profiles of every variant on this worker's host, as JSON, by model key and variant name."""
        return {
            key: {name: profile.model_dump_json() for name, profile in of_model.items()}
            for key, of_model in self._profiles.items()
        }

    async def run(self, model: str, variant: str, inputs: Packed, budget_s: float) -> Ran | Refused:
        """One batch. A second one waits until the first is done."""
        try:
            execution = await self._pool.run(model, variant, unpack(inputs), budget_s)
        except ModelFailed as error:
            return Refused(str(error))
        return Ran(pack(execution.outputs), execution.compute_s, execution.service_s)

    async def check_health(self) -> None:
        """Nothing to check beyond that this runs: a hung model shows as lost batches at the gateways."""

    async def __del__(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is not None:
            await pool.close()

    def _load(self) -> LocalPool:
        artifacts = open_catalog(self._settings.models)
        sessions = load_sessions(artifacts, lambda _: None)
        self._profiles = calibrated(self._settings, artifacts, sessions, lambda _: None)
        return LocalPool(sessions, workers=1)


def read_profiles(told: dict[str, dict[str, str]]) -> dict[str, dict[str, LatencyProfile]]:
    """What `Worker.profiles` told."""
    return {
        key: {name: LatencyProfile.model_validate_json(text) for name, text in of_model.items()}
        for key, of_model in told.items()
    }
