"""The served models while the gateway runs: new ones are brought up before they take traffic, old ones end in peace.

A change goes in this order, so that no request fails by it: the repository is surveyed; a new version is loaded,
calibrated and warmed beside the traffic; the node's replicas agree on it (`serving.ledger`); in one step of the event
loop it takes the requests that name no version; the old one finishes what it has, and its memory is given back.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from models.calibrate import Progress
from models.manifest import ManifestError
from models.repository import Artifact, RepositoryError
from serving.catalog import Catalog, names_at_start
from serving.config import ModelSettings
from serving.control import IndexEntry
from serving.core.errors import ControlRefused
from serving.holdings import UNLOADED, HoldError, Holdings, name_of
from serving.ledger import Agreement, Ledger, LedgerError, Member, Models
from serving.threads import in_daemon

WATCH_S = 0.25
"""How often a replica looks whether the node has agreed on something else."""
FOLLOW_TIMEOUT_S = 120.0
"""How long the caller of a change waits for the other replicas."""
RETRY_S = 30.0
"""How long after a replica could not load what was agreed it tries again."""
NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"
"""Triton's words, for every mode but explicit; its clients look for them."""

log = logging.getLogger("gearshift.stock")


class Stock:
    """One replica's models. Implements `serving.control.ModelControl`."""

    def __init__(
        self,
        settings: ModelSettings,
        catalog: Catalog,
        ledger: Ledger,
        holdings: Holdings,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._ledger = ledger
        self._holdings = holdings
        self._names: list[str] = []
        """The models of the repository, as last seen."""
        self._followed = 0
        self._retry_at_s: float | None = None
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, progress: Progress) -> None:
        """Bring up what the node has agreed on, or else what the settings say.

        Raises `RepositoryError` when that is nothing and nothing could come.
        """
        self._holdings.progress = progress
        agreement = await asyncio.to_thread(self._agreed_before)
        if agreement is None:
            self._names = await in_daemon(self._catalog.names, "gearshift-survey")
            wanted = _models(await self._bring_up(names_at_start(self._settings)))
            agreement = await asyncio.to_thread(self._ledger.agree, lambda _: wanted)
        while agreement is not None:  # others may change their minds while models are loaded here
            await self._follow(agreement)
            agreement = await asyncio.to_thread(self._ledger.read) if self._ledger.changed() else None
        if self._settings.control == "none" and not self._holdings.artifacts:
            reasons = "; ".join(self._holdings.reasons.values()) or "it holds no NAME/VERSION/family.json"
            raise RepositoryError(f"{self._catalog.place}: nothing to serve: {reasons}")

    def start(self) -> None:
        """Others are served from now on: follow the node, and the repository where it is polled."""
        self._holdings.beside_traffic = self._catalog.careful = True
        self._holdings.progress = lambda text: log.debug("%s", text)
        self._tasks.append(asyncio.create_task(self._watch()))
        if self._settings.control == "poll":
            self._tasks.append(asyncio.create_task(self._poll()))

    async def close(self) -> None:
        """Follow nobody any more. What is served stays so until the gateway ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._holdings.close()
        await asyncio.to_thread(self._ledger.leave)

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """See `ModelControl.index`."""
        found = self._holdings.states()
        if ready_only:
            found = {key: entry for key, entry in found.items() if entry.state == "READY"}
        else:
            with contextlib.suppress(RepositoryError):
                self._names = self._catalog.names() if self._catalog.is_local else self._names
            unseen = set(self._names) - {entry.name for entry in found.values()}
            found |= {name: IndexEntry(name, "", "UNAVAILABLE") for name in unseen}
        return sorted(found.values(), key=lambda entry: (entry.name, int(entry.version or 0)))

    async def load(self, model: str, parameters: Mapping[str, str | int | bool] | None = None) -> None:
        """See `ModelControl.load`."""
        self._require_explicit()
        _refuse_overrides(model, parameters or {})
        async with self._changing:
            wanted = await self._versions_to_load(model)
            agreement = await self._agree(f"load '{model}'", lambda models: {**models, model: wanted})
        failed = [
            f"replica {member.name}: {reason}"
            for member in await self._others_at(agreement, f"load '{model}'")
            for key, reason in member.failures.items()
            if key.partition("/")[0] == model
        ]
        if failed:
            raise ControlRefused(f"failed to load '{model}' on every replica of the node, {'; '.join(failed)}")

    async def unload(self, model: str) -> None:
        """See `ModelControl.unload`. As with Triton, what is not served is unloaded already."""
        self._require_explicit()
        what = f"unload '{model[:80]}'"
        async with self._changing:
            agreement = await self._agree(what, lambda models: {name: models[name] for name in models if name != model})
        await self._others_at(agreement, what)

    def _require_explicit(self) -> None:
        if self._settings.control != "explicit":
            raise ControlRefused(NOT_EXPLICIT)

    async def _versions_to_load(self, model: str) -> dict[str, str]:
        """The model's chosen versions, all of them held. Raises `ControlRefused`; then nothing has changed."""
        try:
            self._names = await in_daemon(self._catalog.names, "gearshift-survey")
            if model not in self._names:
                raise ControlRefused(f"failed to load '{model[:80]}', failed to poll from model repository")
            self._catalog.forget(model)
            artifacts = await self._bring_up((model,), settle_for_less=False)
        except RepositoryError as error:
            self._holdings.count(model, "failed")
            raise ControlRefused(f"failed to load '{model}', {error}") from error
        if not artifacts:
            self._holdings.count(model, "failed")
        if not artifacts or any(artifact.key not in self._holdings for artifact in artifacts):
            await self._holdings.forgo_unoffered()
            reasons = [f": version {key.partition('/')[2]}: {reason}" for key, reason in self._reasons(model)]
            raise ControlRefused(f"failed to load '{model}', no version is available{'; '.join(reasons)}")
        return _models(artifacts)[model]

    def _reasons(self, model: str) -> list[tuple[str, str]]:
        """(key, reason) of the model's versions that cannot be served."""
        return [
            (key, reason)
            for key, reason in self._holdings.reasons.items()
            if name_of(key) == model and reason != UNLOADED
        ]

    async def _agree(self, what: str, change: Callable[[dict[str, dict[str, str]]], Models]) -> Agreement:
        try:
            agreement = await asyncio.to_thread(self._ledger.agree, change)
        except LedgerError as error:
            raise ControlRefused(f"failed to {what}, {error}") from error
        await self._follow(agreement)
        return agreement

    async def _others_at(self, agreement: Agreement, what: str) -> Sequence[Member]:
        """The other replicas of the node, once they have followed. Raises `ControlRefused` that names who has not."""
        try:
            return await self._ledger.reached(agreement.generation, FOLLOW_TIMEOUT_S)
        except LedgerError as error:
            raise ControlRefused(f"failed to {what} on every replica of the node, {error}") from error

    async def _bring_up(
        self, names: Collection[str] | None, *, settle_for_less: bool = True, patient: bool = False
    ) -> tuple[Artifact, ...]:
        """What the repository offers of these models, or of all; what is new is loaded, and not yet offered.

        A version that cannot be loaded is refused, and the next best looked for (`settle_for_less`). Raises
        `RepositoryError` when the repository cannot be read.
        """
        while True:
            held = self._holdings.artifacts
            survey = await in_daemon(partial(self._catalog.survey, names, held, patient=patient), "gearshift-survey")
            reasons = self._holdings.reasons
            for key in [key for key in reasons if names is None or name_of(key) in names]:
                if reasons[key] != UNLOADED or key not in survey.present:
                    del reasons[key]
            for key, reason in survey.refused.items():
                self._holdings.refuse(key, reason)
            loaded = [await self._hold(artifact) for artifact in survey.artifacts if artifact.key not in held]
            if all(loaded) or not settle_for_less:
                return survey.artifacts

    async def _hold(self, artifact: Artifact) -> bool:
        """Have a version held; False, and a reason in the index, when that is not possible."""
        try:
            await self._holdings.hold(artifact)
        except HoldError as error:
            self._catalog.refuse(artifact, str(error))
            self._holdings.refuse(artifact.key, str(error))
            self._holdings.count(artifact.family.name, "failed")
            return False
        return True

    async def _follow(self, agreement: Agreement) -> None:
        """Serve what was agreed, and say so. A model of which a part cannot be loaded here loses nothing it has."""
        wanted = {f"{name}/{version}": d for name, found in agreement.models.items() for version, d in found.items()}
        failures: dict[str, str] = {}
        self._holdings.withdraw(wanted)
        for key, digest in wanted.items():
            if key not in self._holdings and not await self._fetch(key, digest):
                failures[key] = self._holdings.reasons.get(key, "it cannot be loaded")
        self._holdings.offer(wanted, {name_of(key) for key in failures})
        await self._holdings.forgo_unoffered()
        self._followed = agreement.generation
        self._retry_at_s = time.monotonic() + RETRY_S if failures else None
        await asyncio.to_thread(self._ledger.report, agreement.generation, failures)

    async def _fetch(self, key: str, digest: str) -> bool:
        """Hold a version that was agreed on, and no other of the same number."""
        try:
            artifact = await in_daemon(lambda: self._catalog.open(*key.split("/")), "gearshift-survey")
        except (ManifestError, RepositoryError) as error:
            self._holdings.refuse(key, str(error))
            return False
        if artifact.digest != digest:
            self._holdings.refuse(key, "its files are not the ones that another replica has loaded")
            return False
        return await self._hold(artifact)

    async def _watch(self) -> None:
        """Follow what the replicas of the node agree on."""
        while True:
            await asyncio.sleep(WATCH_S)
            again = self._retry_at_s is not None and time.monotonic() > self._retry_at_s
            if not (self._ledger.changed() or again):
                continue
            try:
                async with self._changing:
                    agreement = await asyncio.to_thread(self._ledger.read)
                    if agreement is not None and (agreement.generation != self._followed or again):
                        await self._follow(agreement)
            except Exception:  # whatever it is, what is served goes on
                log.exception("what the node agreed on cannot be followed")

    async def _poll(self) -> None:
        """Look after the repository, if this is the replica of its node that does."""
        trouble = ""
        while True:
            await asyncio.sleep(self._settings.poll_s)
            try:
                if await asyncio.to_thread(self._ledger.lead):
                    async with self._changing:
                        await self._look()
                    trouble = ""
            except (RepositoryError, LedgerError) as error:
                if str(error) != trouble:
                    log.warning("the repository cannot be polled, what is served stays: %s", error)
                trouble = str(error)
            except Exception:
                log.exception("polling failed, what is served stays")

    async def _look(self) -> None:
        self._names = await in_daemon(self._catalog.names, "gearshift-survey")
        if not self._names and self._holdings.artifacts:
            raise RepositoryError(f"{self._catalog.place}: empty all of a sudden, which is taken for a mistake")
        wanted = _models(await self._bring_up(None, patient=True))
        agreement = await asyncio.to_thread(self._ledger.agree, lambda _: wanted)
        if agreement.generation != self._followed:
            await self._follow(agreement)

    def _agreed_before(self) -> Agreement | None:
        """What the node has agreed on, if that binds a replica that starts.

        Calls of clients outlive the replicas that answered them. Otherwise a start is a fresh look at the repository,
        unless somebody serves already.
        """
        agreement = self._ledger.read()
        binds = self._settings.control == "explicit" or bool(self._ledger.others())
        return agreement if binds else None


def _models(artifacts: Sequence[Artifact]) -> dict[str, dict[str, str]]:
    """Artifacts as the ledger has them."""
    models: dict[str, dict[str, str]] = {}
    for artifact in artifacts:
        models.setdefault(artifact.family.name, {})[artifact.family.version] = artifact.digest
    return models


def _refuse_overrides(model: str, parameters: Mapping[str, str | int | bool]) -> None:
    """Raises `ControlRefused` for what would replace parts of the repository. What else is asked does not matter."""
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise ControlRefused(
                f"failed to load '{model[:80]}', the parameter '{name[:40]}' is not offered: "
                "models come from the repository only"
            )
