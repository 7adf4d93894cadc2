"""Everything but inference, asked by the generated stubs."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2 as pb

from serving.control import IndexEntry
from serving.core.errors import ControlRefused
from serving.grpc.service import SERVICE
from tests.support.gateways import tagged_family


class FakeControl:
    """A repository that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        entries = [IndexEntry("m", "1", "READY"), IndexEntry("n", "2", "UNAVAILABLE", "broken")]
        return entries[:1] if ready_only else entries

    async def load(self, model: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.asked.append(("load", model, dict(parameters or {})))
        if model == "bad":
            raise ControlRefused("failed to load 'bad', no version is available")

    async def unload(self, model: str) -> None:
        self.asked.append(("unload", model, {}))


async def refused(awaitable: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await awaitable
    return failed.value.code().name, failed.value.details() or ""


async def test_health_of_the_server_and_its_models(desk: Any) -> None:
    assert (await desk.stub.ServerLive(pb.ServerLiveRequest())).live
    for ready in (True, False):
        desk.house.gateway.ready = ready
        assert (await desk.stub.ServerReady(pb.ServerReadyRequest())).ready is ready
        assert (await desk.stub.ModelReady(pb.ModelReadyRequest(name="m"))).ready is ready
    desk.house.gateway.ready = True
    assert (await desk.stub.ModelReady(pb.ModelReadyRequest(name="m", version="1"))).ready
    assert not (await desk.stub.ModelReady(pb.ModelReadyRequest(name="m", version="9"))).ready
    assert not (await desk.stub.ModelReady(pb.ModelReadyRequest(name="nobody"))).ready


async def test_metadata_and_configuration(make_house: Any, make_desk: Any) -> None:
    families = [tagged_family("m", "1"), tagged_family("m", "2")]
    desk = await make_desk(make_house(families=families))
    server = await desk.stub.ServerMetadata(pb.ServerMetadataRequest())
    assert server.name == "gearshift"
    assert "classification" in server.extensions
    model = await desk.stub.ModelMetadata(pb.ModelMetadataRequest(name="m"))
    assert (list(model.versions), model.platform) == (["1", "2"], "onnxruntime_onnx")
    (tensor,) = model.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("tag", "INT64", [-1])
    config = (await desk.stub.ModelConfig(pb.ModelConfigRequest(name="m", version="1"))).config
    assert (config.name, config.max_batch_size, list(config.version_policy.specific.versions)) == ("m", 256, [1])
    assert await refused(desk.stub.ModelMetadata(pb.ModelMetadataRequest(name="x"))) == (
        "NOT_FOUND", "Request for unknown model: 'x' is not found",
    )  # fmt: skip


async def test_statistics_of_one_version_one_model_and_all(make_house: Any, make_desk: Any, tags: Any) -> None:
    house = make_house(families=[tagged_family("m", "1"), tagged_family("m", "2"), tagged_family("n")])
    house.backend.hold = False
    desk = await make_desk(house)
    await desk.stub.ModelInfer(tags(1, 2))

    async def told(**asked: str) -> dict[tuple[str, str], int]:
        answer = await desk.stub.ModelStatistics(pb.ModelStatisticsRequest(**asked))
        return {(model.name, model.version): model.inference_stats.success.count for model in answer.model_stats}

    assert await told(name="m", version="2") == {("m", "2"): 1}
    assert await told(name="m") == {("m", "1"): 0, ("m", "2"): 1}
    assert await told() == {("m", "1"): 0, ("m", "2"): 1, ("n", "1"): 0}


async def test_the_repository_is_asked_where_there_is_one(make_desk: Any) -> None:
    control = FakeControl()
    desk = await make_desk(control=control)
    index = await desk.stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert [(model.name, model.state, model.reason) for model in index.models] == [
        ("m", "READY", ""), ("n", "UNAVAILABLE", "broken"),
    ]  # fmt: skip
    ready = await desk.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    assert [model.name for model in ready.models] == ["m"]
    load = pb.RepositoryModelLoadRequest(model_name="n")
    load.parameters["config"].string_param = "{}"
    await desk.stub.RepositoryModelLoad(load)
    unload = pb.RepositoryModelUnloadRequest(model_name="n")
    await desk.stub.RepositoryModelUnload(unload)
    assert control.asked == [("load", "n", {"config": "{}"}), ("unload", "n", {})]
    assert await refused(desk.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="bad"))) == (
        "INVALID_ARGUMENT", "failed to load 'bad', no version is available",
    )  # fmt: skip
    load.parameters["file:1/model.onnx"].bytes_param = b"x"
    code, text = await refused(desk.stub.RepositoryModelLoad(load))
    assert (code, "files are not taken from requests" in text) == ("INVALID_ARGUMENT", True)


async def test_without_a_repository_what_is_served_is_told_and_stays(desk: Any) -> None:
    index = await desk.stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert [(model.name, model.version, model.state) for model in index.models] == [("m", "1", "READY")]
    code, text = await refused(desk.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m")))
    assert (code, text) == (
        "INVALID_ARGUMENT", "explicit model load / unload is not allowed if polling is enabled",
    )  # fmt: skip


async def test_shared_memory_is_refused_and_empty(desk: Any) -> None:
    assert not (await desk.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())).regions
    assert not (await desk.stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest())).regions
    await desk.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
    await desk.stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
    for call, request in (
        (desk.stub.SystemSharedMemoryRegister, pb.SystemSharedMemoryRegisterRequest(name="r")),
        (desk.stub.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest(name="r")),
    ):
        code, text = await refused(call(request))
        assert code == "INVALID_ARGUMENT"
        assert "shared memory is not offered" in text
    code, _ = await refused(desk.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="r")))
    assert code == "NOT_FOUND"


async def test_every_method_of_the_service_is_known(desk: Any) -> None:
    """None of them may fall through to the text for strangers."""
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if method.client_streaming:
            continue
        call = desk.channel.unary_unary(f"/{SERVICE}/{method.name}")(b"")
        assert "there is no method" not in (await call.details() or ""), method.name


async def test_a_method_nobody_knows(desk: Any) -> None:
    code, text = await refused(desk.channel.unary_unary("/a.B/C")(b""))
    assert (code, text) == ("UNIMPLEMENTED", "there is no method /a.B/C here")
    assert desk.refused("UNIMPLEMENTED") == 1


async def test_a_unary_method_takes_one_message(desk: Any) -> None:
    call = desk.channel.stream_unary(f"/{SERVICE}/ServerLive")
    for messages in ([], [b"", b""]):
        code, text = await refused(call(iter(messages)))
        assert (code, text.startswith("this method takes one message")) == ("INTERNAL", True)


async def test_the_health_service(desk: Any) -> None:
    stub = health_pb2_grpc.HealthStub(desk.channel)
    for service in ("", SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert (await refused(stub.Check(health_pb2.HealthCheckRequest(service="x"))))[0] == "NOT_FOUND"
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    desk.house.gateway.ready = False
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="x"))
    assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_tells_what_there_is(desk: Any, version: str) -> None:
    if version == "v1alpha":
        call = reflection_pb2_grpc.ServerReflectionStub(desk.channel).ServerReflectionInfo()
    else:
        call = desk.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    services = [service.name for service in (await call.read()).list_services_response.service]
    assert SERVICE in services
    assert "grpc.health.v1.Health" in services
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
