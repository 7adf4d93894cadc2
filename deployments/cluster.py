"""A private Ray cluster of one node for this process: started trimmed, on loopback only, stopped without a trace."""

import hashlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from filelock import FileLock, Timeout

from deployments.node import ClusterError, Progress, start_node
from deployments.options import LOGICAL_CPUS, quiet_loggers, serve_options
from deployments.processes import end_processes, ray_processes

_POLL_S = 0.05
_EXIT_GRACE_S = 30.0
_STOP_MARGIN_S = 2.0
"""Serve's own work in a shutdown, beside the drain of the replicas."""
_SESSION_PATH_BYTES = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.99")
_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux."""
log = logging.getLogger("gearshift.cluster")


class Cluster:
    """A running cluster. Use as a context manager, or call `stop`."""

    def __init__(self, node: Any, ray_dir: Path, lock: FileLock) -> None:
        self._node = node
        self._ray_dir = ray_dir
        self._lock = lock
        self._stopped = False

    def deploy(self, application: Any, *, name: str, timeout_s: float, progress: Progress) -> None:
        """Run a Serve application and wait until all its replicas are ready.

        A second call with the same name replaces the replicas, also when nothing has changed: Serve gives
        each call a version of its own. With `max_surge_percent=100` the new ones are ready before the old
        ones stop. Raises `ClusterError` after `timeout_s`, or with Serve's message
        when the application cannot start.
        """
        from ray import serve

        # serve.run asks for the state once a second; 20 times makes a start 1 s shorter.
        target = serve.RunTarget(application, name=name, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False, wait_for_ingress_deployment_creation=False)
        deadline_s = time.monotonic() + timeout_s
        told = ""
        while True:
            overview = serve.status().applications[name]
            replicas = "; ".join(
                f"{deployment}: {', '.join(f'{n} {state.lower()}' for state, n in of.replica_states.items())}"
                for deployment, of in overview.deployments.items()
            )
            if overview.status == "RUNNING":
                return
            if overview.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                # The application's own message only names the deployment; this one has the exception.
                why = "\n".join(of.message for of in overview.deployments.values() if of.message)
                raise ClusterError(f"application {name!r} did not start: {why or overview.message}")
            if time.monotonic() > deadline_s:
                raise ClusterError(f"application {name!r} is not ready after {timeout_s:g} s ({replicas})")
            if replicas != told:
                progress(replicas)
                told = replicas
            time.sleep(_POLL_S)

    def processes(self) -> list[psutil.Process]:
        """Every process of the cluster, agents and replicas included."""
        return ray_processes(self._ray_dir)

    @property
    def address(self) -> str:
        """Host and port of the cluster's GCS."""
        return str(self._node.address)

    @property
    def log_dir(self) -> Path:
        """Ray's logs of this run; gone after `stop`."""
        return self._ray_dir / "session_latest" / "logs"

    def stop(self, grace_s: float) -> None:
        """Drain and stop the replicas, for at most `grace_s`, then end every process and remove the files.

        Each replica's `__del__` runs to its end if its deployment's `graceful_shutdown_timeout_s` allows.
        Bounded by grace_s + 12 s. Calling it again does nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        serving = threading.Thread(target=_shutdown_serve, args=(grace_s,), daemon=True)
        serving.start()
        try:
            serving.join(grace_s + _STOP_MARGIN_S)
        finally:  # also when a second Ctrl-C ends the wait
            self._end(stuck=serving.is_alive())

    def _end(self, *, stuck: bool) -> None:
        import ray

        processes = self.processes()
        if stuck:
            # ray.shutdown would wait for whoever does not answer.
            log.warning("the replicas did not stop in time and are ended")
            end_processes(processes)
        ray.shutdown()
        self._node.kill_all_processes(check_alive=False, allow_graceful=True)
        left = end_processes({*processes, *self.processes()})
        if left:
            log.error("processes outlived SIGKILL: %s", ", ".join(str(process.pid) for process in left))
        shutil.rmtree(self._ray_dir, ignore_errors=True)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(_EXIT_GRACE_S)


def start_cluster(runtime_dir: Path, *, num_cpus: int = LOGICAL_CPUS, progress: Progress) -> Cluster:
    """Start Ray and Serve for this process alone. `configure_environment` must have run.

    Never joins another cluster, and ends what a killed run with the same `runtime_dir` has left. Call it
    from a thread that lives as long as the cluster (the main one): the kernel kills Ray's processes with
    the *thread* that started them. Raises `ClusterError`.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token" or not os.environ.get("RAY_AUTH_TOKEN"):
        raise ClusterError("configure_environment() must run before start_cluster()")
    ray_dir = _private_folders(runtime_dir)
    lock = FileLock(runtime_dir / "cluster.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ClusterError(f"another Gearshift runs with the runtime folder {runtime_dir}") from None
    try:
        orphans = ray_processes(ray_dir)
        if orphans:
            progress(f"ending {len(orphans)} processes of a run that was killed")
            end_processes(orphans)
        shutil.rmtree(ray_dir, ignore_errors=True)
        ray_dir.mkdir(mode=0o700)
        progress("starting Ray")
        with _hang_up_blocked():
            node = start_node(ray_dir, num_cpus, progress)
        cluster = Cluster(node, ray_dir, lock)
        try:
            _connect(cluster, progress)
        except BaseException:
            cluster.stop(0.0)
            raise
    except BaseException:
        lock.release()
        raise
    return cluster


def _private_folders(runtime_dir: Path) -> Path:
    """Make the runtime folder; returns the one for Ray, short enough for its sockets.

    Ray opens its folders and sockets to every user of the machine, so a parent must not let them in.
    """
    runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    ray_dir = runtime_dir.resolve() / "ray"
    if len(os.fsencode(ray_dir)) + _SESSION_PATH_BYTES > _SOCKET_PATH_BYTES:
        # The same folder each time, so that a later run finds what a killed one has left.
        digest = hashlib.sha256(os.fsencode(ray_dir)).hexdigest()[:12]
        ray_dir = Path(tempfile.gettempdir()) / f"gearshift-ray-{digest}"
        ray_dir.mkdir(mode=0o700, exist_ok=True)
        if ray_dir.is_symlink() or ray_dir.stat().st_uid != os.getuid():
            raise ClusterError(f"{ray_dir} belongs to somebody else: choose a shorter runtime folder")
    return ray_dir


def _connect(cluster: Cluster, progress: Progress) -> None:
    import ray
    from ray import serve

    # ray.init replaces the handler by one that exits at once, without a drain.
    with _kept_handler(signal.SIGTERM):
        ray.init(
            address=cluster.address,  # an address is never searched for, so no other cluster is joined
            namespace="gearshift",
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    quiet_loggers()
    progress("starting Ray Serve")
    serve.start(**serve_options())


def _shutdown_serve(grace_s: float) -> None:
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        # A handle of this process, once used on a loop that is closed by now, would make the shutdown fail.
        client.handle_cache.clear()
        client.shutdown(timeout_s=grace_s)  # serve.shutdown() alone waits at most 30 s
    serve.shutdown()


@contextmanager
def _kept_handler(number: signal.Signals) -> Iterator[None]:
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


@contextmanager
def _hang_up_blocked() -> Iterator[None]:
    """What is started inside ignores SIGHUP; Ray itself does so for SIGINT.

    A terminal sends both to all its processes at once: only the driver may react, and drain first.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
