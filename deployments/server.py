"""`gearshift serve` under Ray: a private cluster, the application on it, and a drain at the end."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from deployments.cluster import start_cluster
from deployments.node import ClusterError, Progress
from deployments.options import configure_environment
from models.calibrate import profile_family
from models.canary import CanaryError
from models.manifest import ManifestError
from models.runner import open_variant
from serving.catalog import open_catalog
from serving.config import Settings
from serving.engine import try_unknown

APPLICATION = "gearshift"
READY_TIMEOUT_S = 120.0
STOP_MARGIN_S = 10.0

log = logging.getLogger("gearshift.server")


def run_on_ray(settings: Settings, progress: Progress, announce: Callable[[], None]) -> int:
    """Serve until SIGINT or SIGTERM, then drain. Returns the exit code.

    `announce` is called once requests are answered. Raises `ClusterError`.
    """
    stop = threading.Event()
    _calibrate(settings, progress)
    configure_environment()
    with _stopping(stop):
        cluster = start_cluster(settings.run_folder, progress=progress)
        grace_s = settings.server.lame_duck_s + settings.server.drain_s + STOP_MARGIN_S
        try:
            if not stop.is_set():
                from deployments.app import application

                progress("starting the gateway")
                cluster.deploy(application(settings), name=APPLICATION, timeout_s=READY_TIMEOUT_S, progress=progress)
                announce()
            stop.wait()
            progress("draining")
        except ClusterError:
            grace_s = 0.0
            raise
        finally:
            cluster.stop(grace_s)
    return 0


def _calibrate(settings: Settings, progress: Progress) -> None:
    """Measure what this host does not know yet, before replicas compete for it; they find it in the cache."""
    for artifact in open_catalog(settings.models):
        try:
            if settings.models.control != "none":
                try_unknown(settings, artifact, progress)
            profile_family(
                artifact.family,
                partial(open_variant, artifact),
                cache_dir=settings.models.cache_dir,
                watts_per_core=settings.models.watts_per_core,
                progress=progress,
            )
        except (CanaryError, ManifestError) as error:  # the replicas find the same, and tell it
            log.warning("not measured: %s: %s", artifact.key, error)


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Within, SIGINT and SIGTERM ask for a stop; a second one interrupts whatever still runs."""

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
