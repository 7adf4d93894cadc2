"""A lane's remote variants: whether their endpoints answer, and finding out when they do again.

Each begins out of service and is asked at once. One that failed several times in a row goes out of service: the
scheduler goes on without it, and a probe (one row of random input, beside the traffic and without a worker) is sent
now and then until it is answered.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from models.calibrate import random_inputs
from models.manifest import ManifestError
from models.remote import RemoteModel
from models.session import VariantLost
from serving.core.breaker import Breaker, BreakerOptions
from serving.core.request import Request
from serving.lane import Lane
from serving.ports import Clock

log = logging.getLogger("gearshift.remotes")

Probe = Callable[[], float]
"""Asks an endpoint for one row and returns the seconds it took; runs in a thread. Raises `VariantLost` or
`ManifestError`."""

Orphans = Callable[[list[Request]], None]
"""Told which waiting requests no other variant can answer."""

NOBODY: Mapping[int, Probe] = MappingProxyType({})


class Remotes:
    """The breakers of one lane. All methods belong to the event loop."""

    def __init__(
        self,
        lane: Lane,
        clock: Clock,
        on_orphans: Orphans,
        options: BreakerOptions | None = None,
        probes: Mapping[int, Probe] | None = None,
    ) -> None:
        """`probes` by variant index; by default of the endpoints in the manifest."""
        self._lane = lane
        self._clock = clock
        self._on_orphans = on_orphans
        self._loop = asyncio.get_running_loop()
        self._probes = _probes_of(lane) if probes is None else probes
        self._breakers = {variant: Breaker(options) for variant in self._probes}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._closed = False
        for variant in self._breakers:
            self._suspend(variant)
            self._ask(variant)

    def failed(self, variant: int, reason: str) -> None:
        """A batch came to nothing through this variant."""
        self._lane.count_remote_failure(variant)
        if self._closed or not self._breakers[variant].failed(self._clock()):
            return
        log.warning("remote variant out of service: %s", reason, extra=self._names(variant))
        self._suspend(variant)
        self._later(variant)

    def succeeded(self, variant: int) -> None:
        """A batch was answered."""
        self._breakers[variant].succeeded()

    def close(self) -> None:
        """Ask nobody any more. A probe under way ends by itself, unheard."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()

    def _suspend(self, variant: int) -> None:
        orphans = self._lane.suspend(variant)
        if orphans:
            self._on_orphans(orphans)

    def _later(self, variant: int) -> None:
        wait_s = max(0.0, self._breakers[variant].probe_at_s - self._clock())
        self._timers[variant] = self._loop.call_later(wait_s, self._ask, variant)

    def _ask(self, variant: int) -> None:
        # A thread of its own that nobody waits for: a silent endpoint holds up neither a worker nor the exit.
        name = f"gearshift-probe-{self._lane.variants[variant].name}"
        threading.Thread(target=self._probe, args=(variant,), name=name, daemon=True).start()

    def _probe(self, variant: int) -> None:
        took_s: float | None = None
        reason = ""
        try:
            took_s = self._probes[variant]()
        except (VariantLost, ManifestError) as error:
            reason = str(error)
        except Exception as error:
            log.exception("probe failed", extra=self._names(variant))
            reason = type(error).__name__
        try:
            self._loop.call_soon_threadsafe(self._probed, variant, took_s, reason)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _probed(self, variant: int, took_s: float | None, reason: str) -> None:
        if self._closed:
            return
        breaker = self._breakers[variant]
        if took_s is None:
            breaker.probe_failed(self._clock())
            log.warning("remote variant does not answer: %s", reason, extra=self._names(variant))
            self._later(variant)
            return
        breaker.probe_succeeded(self._clock())
        self._lane.resume(variant, took_s)
        log.info("remote variant in service", extra={**self._names(variant), "probe_ms": round(took_s * 1e3, 1)})

    def _names(self, variant: int) -> dict[str, str]:
        return {"model": self._lane.key, "variant": self._lane.variants[variant].name}


def _probes_of(lane: Lane) -> dict[int, Probe]:
    return {view.index: _probe_of(lane, view.name) for view in lane.variants if view.elsewhere}


def _probe_of(lane: Lane, name: str) -> Probe:
    family, remote = lane.family, lane.family.variant(name).remote
    if remote is None:
        raise AssertionError(f"{name} is not remote")

    def probe() -> float:
        model = RemoteModel(family, remote)
        model.check()
        inputs = random_inputs(family.inputs, 1)
        model.run(inputs)  # opens the connection, and wakes who sleeps there
        started_s = time.perf_counter()
        model.run(inputs)
        return time.perf_counter() - started_s

    return probe
