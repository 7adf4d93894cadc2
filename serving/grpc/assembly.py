"""The gRPC side of a gateway process, put together."""

from serving.codec.limits import CodecLimits
from serving.config import Settings
from serving.control import ModelControl
from serving.door import Door
from serving.gateway import Gateway
from serving.grpc.call import Office
from serving.grpc.errors import Code
from serving.grpc.health import HEALTH_SERVICE, health_methods
from serving.grpc.infer import Inference
from serving.grpc.reflection import reflection_methods
from serving.grpc.service import SERVICE, InferenceService, inference_methods
from serving.keys import ApiKeys
from serving.metrics import Metrics
from serving.ports import Clock

MESSAGE_ROOM_BYTES = 64 * 1024
"""What a message may have besides its tensors."""


def open_office(
    gateway: Gateway,
    door: Door,
    limits: CodecLimits,
    metrics: Metrics,
    clock: Clock,
    control: ModelControl | None = None,
    settings: Settings | None = None,
    keys: ApiKeys | None = None,
) -> Office:
    """Everything the calls of one gateway need.

    `settings`: those it runs with; None for the defaults. `keys`: who may call; None for everybody.
    """
    inference = Inference(gateway, door, limits, clock)
    methods = {
        **inference_methods(InferenceService(gateway, metrics, settings or Settings(), control), inference),
        **health_methods(gateway),
        **reflection_methods((SERVICE, HEALTH_SERVICE)),
    }

    def refused(code: Code) -> None:
        metrics.counter("gearshift_refused_total", code.name).value += 1

    return Office(methods, refused, door.new_id, limits.max_binary_bytes + MESSAGE_ROOM_BYTES, keys)
