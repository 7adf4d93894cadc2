"""How Ray 2.60 and Ray Serve are set up on one small node: each option beside its reason.

Ray reads most of these once, when its modules or processes start, and every Ray process inherits the
environment of the driver. So they are written into `os.environ` before the first `import ray`.
"""

import logging
import os
import secrets
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass

LOGICAL_CPUS = 16
"""CPUs Ray is told of. Only bookkeeping: fractional claims of replicas must never be what stops a rolling
update, which needs room for old and new replicas at the same time. Threads are sized from real cores."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Shared memory of Ray's object store. Its least allowed size is 75 MiB; handle calls inline their bytes."""
CONTROLLER_LOGGING = {"log_level": "WARNING", "enable_access_log": False}
"""Serve formats an access line for every call unless told not to."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable of Ray: `forced` ones replace what the caller had set."""

    name: str
    value: str
    why: str
    forced: bool = False
    on_cluster: bool = False
    """Whether the pods of a cluster that somebody else starts should have it too."""


VARIABLES = (
    # Safety: Ray's ports run code for whoever reaches them.
    Variable(
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "0",
        "makes the node's address 127.0.0.1: GCS, raylet, agents and workers then bind loopback only."
        " `_node_ip_address` of ray.init cannot do it (it replaces loopback by the outward address)",
        forced=True,
    ),
    Variable(
        "RAY_AUTH_MODE",
        "token",
        "a replica's inter-deployment gRPC port stays on all interfaces whatever the node's address,"
        " and unpickles what it receives: it must ask for a token",
        forced=True,
    ),
    Variable("RAY_USAGE_STATS_ENABLED", "0", "no telemetry", forced=True, on_cluster=True),
    # Faster start (two shared cores, a run or two each: ratios). The processes left out are in node.py.
    Variable(
        "RAY_preload_python_modules",
        "ray.serve._private.replica",
        "the two workers started ahead import Serve (1.2 s of CPU each) while the driver still connects",
    ),
    Variable("RAY_enable_worker_prestart", "1", "without workers started ahead a deploy takes 2 s longer"),
    Variable("RAY_prestart_worker_first_driver", "1", "same"),
    # The data path.
    Variable(
        "RAY_worker_niceness", "0", "default 15: any neighbour on a small node starves the replicas", on_cluster=True
    ),
    Variable(
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
        "0",
        "handle calls and our listeners share one loop (uvloop): no hop between threads",
        on_cluster=True,
    ),
    Variable("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0", "same, for the calling side of a handle", on_cluster=True),
    Variable("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1", "52 KB take 2.4 ms, by an actor call 3.9 ms", on_cluster=True),
    Variable(
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH",
        str(256 * 1024 * 1024),
        "default 4 MiB cuts big batches",
        on_cluster=True,
    ),
    Variable("RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE", "1000", "log lines are flushed in blocks", on_cluster=True),
    # Less work while idle; not measured one by one.
    Variable(
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS", "1000", "default 100: wakes every replica 10 times/s", on_cluster=True
    ),
    Variable("RAY_metrics_report_interval_ms", "30000", "nobody scrapes Ray's own metrics on a single node"),
    Variable("RAY_event_stats", "0", "no timing of every event in the C++ processes"),
    # Quiet.
    Variable("RAY_SERVE_LOG_TO_STDERR", "0", "Serve writes into its session folder, not on our terminal"),
    Variable("RAY_enable_output_error_log_if_still_retry", "0", "no false alarm at each shutdown"),
    Variable("RAY_DEDUP_LOGS", "0", "no worker output is shown, so there is nothing to fold"),
    # A driver that was killed.
    Variable(
        "RAY_raylet_death_check_interval_milliseconds",
        "100",
        "default 1000: replicas of a killed driver kept their port for 3 s, now 1.6 s",
    ),
)

FOREIGN = (
    "RAY_ADDRESS",
    "RAY_REDIS_ADDRESS",
    "RAY_NAMESPACE",
    "RAY_GCS_SERVER_PORT",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_RUNTIME_ENV_HOOK",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING",
)
"""Variables that would tie our node to somebody else's cluster: removed."""


class EnvironmentFixedError(RuntimeError):
    """Ray was imported before its environment was set: what it has read cannot be changed any more."""


def configure_environment(
    *, separate_user_thread: bool = False, environ: MutableMapping[str, str] | None = None
) -> None:
    """Write Ray's variables into the environment; values the caller has set win over unforced ones.

    `separate_user_thread`: Ray's own default, for code that may block the loop of its replica.
    Each call makes a fresh token. Raises `EnvironmentFixedError` when Ray was imported before.
    """
    if environ is None:
        if "ray" in sys.modules:
            raise EnvironmentFixedError("configure_environment() must run before the first `import ray` in the process")
        environ = os.environ
    for name in FOREIGN:
        environ.pop(name, None)
    if separate_user_thread:
        environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "1")
        environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "1")
    for variable in VARIABLES:
        if variable.forced:
            environ[variable.name] = variable.value
        else:
            environ.setdefault(variable.name, variable.value)
    # In the environment, and not in ~/.ray where Ray would write it: another run has another token, a
    # read-only home works, and /proc/PID/environ is readable by the same user only.
    environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def cluster_environment() -> dict[str, str]:
    """The variables for every pod of a cluster. Its addresses and its token are KubeRay's to set."""
    return {variable.name: variable.value for variable in VARIABLES if variable.on_cluster}


def quiet_loggers() -> None:
    """Keep Ray's progress lines off our terminal; its warnings stay."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)


def serve_options() -> dict[str, object]:
    """Keyword arguments of `serve.start`."""
    # Our replicas listen themselves: Serve's HTTP proxy would be one process and 90 MB for nothing.
    return {"proxy_location": "Disabled", "logging_config": CONTROLLER_LOGGING}
