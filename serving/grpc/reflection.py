"""grpc.reflection: tools such as grpcurl ask what there is to call."""

from collections.abc import Sequence

from grpc_reflection.v1alpha.reflection import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from serving.grpc.call import Call, Method
from serving.grpc.request import read_message
from serving.grpc.service import method_path

REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""The messages of both are the same on the wire."""


def reflection_methods(services: Sequence[str]) -> dict[bytes, Method]:
    """The reflection of these services, whose descriptors are those of the generated code."""
    servicer = ReflectionServicer((*services, *REFLECTION_SERVICES))

    async def info(call: Call) -> None:
        while (message := await call.next()) is not None:
            request = read_message(ServerReflectionRequest, message)
            for answer in servicer.ServerReflectionInfo(iter((request,)), None):
                await call.send_message(answer.SerializeToString())

    return {method_path(service, "ServerReflectionInfo"): Method(streaming=info) for service in REFLECTION_SERVICES}
