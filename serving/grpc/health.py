"""grpc.health.v1.Health: what load balancers and probes of Kubernetes ask."""

import asyncio

from grpc_health.v1 import health_pb2 as health

from serving.core.errors import UnknownModel
from serving.gateway import Gateway
from serving.grpc.call import Call, Method
from serving.grpc.request import read_message
from serving.grpc.service import SERVICE, method_path, unary

HEALTH_SERVICE = "grpc.health.v1.Health"
LOOK_S = 0.1
"""How often a watcher's answer is looked after."""


def health_methods(gateway: Gateway) -> dict[bytes, Method]:
    """Check and Watch. The whole server goes by the empty name, and by the name of its one service."""

    def status(service: str) -> int:
        if service not in ("", SERVICE):
            return int(health.HealthCheckResponse.SERVICE_UNKNOWN)
        serving = health.HealthCheckResponse.SERVING if gateway.ready else health.HealthCheckResponse.NOT_SERVING
        return int(serving)

    async def check(request: health.HealthCheckRequest) -> health.HealthCheckResponse:
        found = status(request.service)
        if found == health.HealthCheckResponse.SERVICE_UNKNOWN:
            raise UnknownModel(f"there is no service '{request.service[:80]}' here")
        return health.HealthCheckResponse(status=found)

    async def watch(call: Call) -> None:
        message = await call.next()
        request = read_message(health.HealthCheckRequest, message or b"")
        seen = None
        while not call.local_done:
            found = status(request.service)
            if found != seen:
                seen = found
                await call.send_message(health.HealthCheckResponse(status=found).SerializeToString())
            await asyncio.sleep(LOOK_S)

    return {
        method_path(HEALTH_SERVICE, "Check"): unary(health.HealthCheckRequest, check),
        method_path(HEALTH_SERVICE, "Watch"): Method(streaming=watch),
    }
