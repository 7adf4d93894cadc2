"""The composition root under Ray Serve: settings in, application out. Import path: `deployments.app:build`."""

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.gateway import GatewayReplica
from deployments.worker import Worker
from serving.config import Settings, load_settings

GATEWAY, WORKER = "gateway", "worker"
CLAIMED_CPUS = 0.1
"""Of Ray's bookkeeping. Threads are sized from the real cores, and a rolling update needs room for two of each."""
STOP_MARGIN_S = 5.0
SHARED: dict[str, Any] = {
    "max_ongoing_requests": 10_000,  # the gateway queues, not Ray
    "max_surge_percent": 100,  # the new replica listens before the old one stops
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.1,
    "ray_actor_options": {"num_cpus": CLAIMED_CPUS},
}


def build(args: dict[str, Any] | None = None) -> Application:
    """The application for `serve run`, `serve deploy` and a RayService. `args` are settings by section.

    Raises `ConfigError`.
    """
    return application(load_settings(overrides=args))


def application(settings: Settings) -> Application:
    """Gateway replicas, and in the split topology the workers behind them."""
    text = settings.model_dump_json()
    gateway = serve.deployment(
        GatewayReplica,
        name=GATEWAY,
        num_replicas=settings.engine.replicas,
        graceful_shutdown_timeout_s=settings.server.drain_s + STOP_MARGIN_S,
        **SHARED,
    )
    if settings.engine.topology == "colocated":
        return gateway.bind(text)
    return gateway.bind(text, workers(settings))


def workers(settings: Settings) -> Application:
    """The worker replicas of the split topology."""
    worker = serve.deployment(
        Worker,
        name=WORKER,
        num_replicas=settings.worker_replicas(),
        graceful_shutdown_timeout_s=settings.server.drain_s + STOP_MARGIN_S,
        **SHARED,
    )
    return worker.bind(settings.model_dump_json())
