"""The processes of a Ray head node, without those a single node has no use for."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deployments.options import OBJECT_STORE_BYTES, quiet_loggers
from deployments.processes import end_processes, ray_processes
from serving.config import usable_cores

START_ATTEMPTS = 2
"""Ray gives a raylet 30 s; on a machine busy with something else that can be too little once."""
FEWEST_AHEAD, MOST_AHEAD = 2, 4
"""Workers started while the driver still connects: Serve's controller and the first replica take two at once."""
_AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)

Progress = Callable[[str], None]

log = logging.getLogger("gearshift.cluster")


class ClusterError(RuntimeError):
    """The cluster or an application on it did not start; the message says where to look."""


def start_node(ray_dir: Path, num_cpus: int, progress: Progress) -> Any:
    """Start a GCS and a raylet on 127.0.0.1, with their files below `ray_dir`. Raises `ClusterError`."""
    # ray.init would also start the dashboard (2.6 s in which everything else waits, 75 MB, also with
    # include_dashboard=False), the autoscaler's monitor (49 MB) and the log monitor (48 MB), and has no
    # option against them. So the node is made as ray.init makes it, without the three.
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class TrimmedNode(Node):  # type: ignore[misc]  # Ray ships no types
        def start_api_server(self, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
            del include_dashboard, raise_on_failure
            self._webui_url = ""

        def start_raylet(self, *args: Any, **kwargs: Any) -> None:
            # A raylet waits for its agents to write their ports into these files, and aborts after 15 s:
            # on a busy machine their imports take longer. The ports are ours, so it may know them now.
            for name in _AGENT_PORTS:
                file = Path(self.get_session_dir_path()) / f"{name}_{self.node_id}"
                file.write_text(str(getattr(self._ray_params, name)))
            with few_started_ahead():
                super().start_raylet(*args, **kwargs)

    quiet_loggers()
    for attempt in range(1, START_ATTEMPTS + 1):
        params = RayParams(
            node_ip_address="127.0.0.1",
            num_cpus=num_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            temp_dir=str(ray_dir),
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
            **dict(zip(_AGENT_PORTS, _free_ports(len(_AGENT_PORTS)), strict=True)),
        )
        try:
            return TrimmedNode(params, head=True, shutdown_at_exit=False, spawn_reaper=True, ray_init_cluster=True)
        except Exception as error:  # Ray raises bare Exception when a raylet does not come up
            end_processes(ray_processes(ray_dir))
            if attempt == START_ATTEMPTS:
                raise ClusterError(f"Ray did not start; its logs are in {ray_dir}: {error}") from error
            log.warning("Ray did not start, trying once more: %s", error)
            progress("Ray did not start in time, trying once more")
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def few_started_ahead() -> Iterator[None]:
    """Within, a raylet is told of as many cores as we may use, and at most a few.

    It starts that many workers ahead, 75 MB each, and counts the cores of the host: in a container with two cores of
    sixteen, fourteen would sit idle and take the memory the models need.
    """
    from ray._private import services

    cores = min(max(usable_cores(), FEWEST_AHEAD), MOST_AHEAD)
    before = services.multiprocessing
    services.multiprocessing = SimpleNamespace(cpu_count=lambda: cores)
    try:
        yield
    finally:
        services.multiprocessing = before


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in opened]
