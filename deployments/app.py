"""The composition root under Ray Serve: settings in, application out. Import path: `deployments.app:build`."""

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments.autoscaling import autoscaling_config
from deployments.gateway import GatewayReplica
from deployments.routing import Booked
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
    """The application for a cluster that somebody else started: `serve run`, `serve deploy`, a RayService.

    It also hangs on Ray's ingress there. `args` are settings by section. Raises `ConfigError`.
    """
    return application(load_settings(overrides=args), ingress=True)


def application(settings: Settings, *, ingress: bool = False) -> Application:
    """Gateway replicas, and in the split topology the workers behind them.

    `ingress`: whether Ray's proxies may call the gateway as well. Its own listener serves either way.
    """
    text = settings.model_dump_json()
    options = SHARED | {"graceful_shutdown_timeout_s": stop_s(settings)}
    if settings.engine.replicas_per_node:
        # A new replica has no room beside the old one, and needs none: what is to stop stays reachable while the
        # node's load balancer learns of it (server.lame_duck_s), and its place is taken only then.
        options |= {"max_replicas_per_node": settings.engine.replicas_per_node, "max_surge_percent": 0}
    gateway = serve.deployment(
        serve.ingress()(GatewayReplica) if ingress else GatewayReplica,
        name=GATEWAY,
        **options,
        **_replicas(settings, settings.engine.replicas, scaled=settings.engine.topology == "colocated"),
    )
    if settings.engine.topology == "colocated":
        return gateway.bind(text)
    return gateway.bind(text, workers(settings))


def workers(settings: Settings) -> Application:
    """The worker replicas of the split topology."""
    worker = serve.deployment(
        Worker,
        name=WORKER,
        **_replicas(settings, settings.worker_replicas(), scaled=True),
        graceful_shutdown_timeout_s=settings.server.drain_s + STOP_MARGIN_S,
        request_router_config=RequestRouterConfig(request_router_class=Booked),
        **SHARED,
    )
    return worker.bind(settings.model_dump_json())


def _replicas(settings: Settings, started: int, *, scaled: bool) -> dict[str, Any]:
    """How many replicas: so many, or as many as the load wants where they are `scaled`."""
    if scaled and settings.autoscaling.max_replicas:
        return {"autoscaling_config": autoscaling_config(settings.autoscaling, started)}
    return {"num_replicas": started}


def stop_s(settings: Settings) -> float:
    """Longest stop of a gateway: still reachable, then draining, then letting go."""
    return settings.server.lame_duck_s + settings.server.drain_s + STOP_MARGIN_S
