"""inference.GRPCInferenceService: which method answers which call."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from tritonclient.grpc import service_pb2 as pb

from serving.config import Settings
from serving.control import IndexEntry, ModelControl, State
from serving.core.errors import ControlRefused, InvalidRequest, UnknownModel
from serving.gateway import Gateway
from serving.grpc.call import Call, Method
from serving.grpc.describe import config_message, metadata_message, statistics_message
from serving.grpc.framing import Message
from serving.grpc.infer import Inference
from serving.grpc.request import read_message
from serving.http.describe import EXTENSIONS
from serving.logs import current_level
from serving.metrics import Metrics
from serving.triton_settings import (
    NO_SHARED_MEMORY,
    TRACING_FIXED,
    LogChange,
    change_logging,
    log_settings,
    trace_settings,
)

SERVICE = "inference.GRPCInferenceService"

Answer = Callable[[Any], Awaitable[Any]]
"""From a request of its generated class to an answer of its."""


class InferenceService:
    """All calls but the inferences themselves."""

    def __init__(
        self, gateway: Gateway, metrics: Metrics, settings: Settings, control: ModelControl | None = None
    ) -> None:
        """`control`: the repository; None where what is served cannot change."""
        self._gateway = gateway
        self._metrics = metrics
        self._settings = settings
        self._control = control

    async def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:  # noqa: ARG002
        """It answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:  # noqa: ARG002
        """Whether all models can be called."""
        return pb.ServerReadyResponse(ready=self._gateway.ready)

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether a model can be called; one nobody knows cannot."""
        try:
            self._gateway.lane(request.name, request.version or None)
        except UnknownModel:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._gateway.ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:  # noqa: ARG002
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(name="gearshift", version=version("gearshift"), extensions=EXTENSIONS)

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Inputs and outputs of a model."""
        lane = self._gateway.lane(request.name, request.version or None)
        return metadata_message(lane, list(self._gateway.lanes[request.name]))

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """The configuration of a model."""
        return config_message(self._gateway.lane(request.name, request.version or None))

    async def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Statistics of one version, of all versions of a model, or of all models."""
        if request.name:
            lane = self._gateway.lane(request.name, request.version or None)
            lanes = [lane] if request.version else list(self._gateway.lanes[request.name].values())
        else:
            lanes = [lane for versions in self._gateway.lanes.values() for lane in versions.values()]
        self._metrics.flush()
        return await asyncio.to_thread(lambda: statistics_message(lanes, self._metrics.collect()))

    async def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every version known."""
        entries = self._served() if self._control is None else self._control.index(ready_only=request.ready)
        answer = pb.RepositoryIndexResponse()
        for entry in entries:
            if entry.state == "READY" or not request.ready:
                answer.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return answer

    async def repository_model_load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load a model; returns when it serves."""
        await self._repository().load(request.model_name, _parameters(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        """Offer a model no longer."""
        await self._repository().unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def system_regions(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        """There are none."""
        if request.name:
            raise UnknownModel(f"Unable to find system shared memory region: '{request.name[:80]}'")
        return pb.SystemSharedMemoryStatusResponse()

    async def cuda_regions(self, request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        """There are none."""
        if request.name:
            raise UnknownModel(f"Unable to find cuda shared memory region: '{request.name[:80]}'")
        return pb.CudaSharedMemoryStatusResponse()

    async def forget_system_region(self, request: Any) -> pb.SystemSharedMemoryUnregisterResponse:  # noqa: ARG002
        """True without any region."""
        return pb.SystemSharedMemoryUnregisterResponse()

    async def forget_cuda_region(self, request: Any) -> pb.CudaSharedMemoryUnregisterResponse:  # noqa: ARG002
        """True without any region."""
        return pb.CudaSharedMemoryUnregisterResponse()

    async def refuse_region(self, request: Any) -> Any:  # noqa: ARG002
        """Memory shared with a stranger is not looked into."""
        raise InvalidRequest(NO_SHARED_MEMORY)

    async def trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        """Whether requests are traced; no call changes it."""
        if request.model_name:
            self._gateway.lane(request.model_name)
        if request.settings:
            raise InvalidRequest(TRACING_FIXED)
        answer = pb.TraceSettingResponse()
        for name, value in trace_settings(self._settings.tracing).items():
            answer.settings[name].value.extend(value if isinstance(value, list) else [value])
        return answer

    async def log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """What is logged, in every gateway of the node; changed where settings are given."""
        if request.settings:
            settings = await change_logging(self._settings.run_folder, _log_change(request.settings))
        else:
            settings = log_settings(current_level())
        answer = pb.LogSettingsResponse()
        for name, value in settings.items():
            kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(answer.settings[name], kind, value)
        return answer

    def _repository(self) -> ModelControl:
        if self._control is None:
            raise ControlRefused("explicit model load / unload is not allowed if polling is enabled")
        return self._control

    def _served(self) -> list[IndexEntry]:
        state: State = "READY" if self._gateway.ready else "UNAVAILABLE"
        return [
            IndexEntry(name, number, state) for name, versions in self._gateway.lanes.items() for number in versions
        ]


def inference_methods(service: InferenceService, inference: Inference) -> dict[bytes, Method]:
    """The methods of the service by path."""
    answers: Mapping[str, Answer] = {
        "ServerLive": service.server_live,
        "ServerReady": service.server_ready,
        "ModelReady": service.model_ready,
        "ServerMetadata": service.server_metadata,
        "ModelMetadata": service.model_metadata,
        "ModelConfig": service.model_config,
        "ModelStatistics": service.model_statistics,
        "RepositoryIndex": service.repository_index,
        "RepositoryModelLoad": service.repository_model_load,
        "RepositoryModelUnload": service.repository_model_unload,
        "SystemSharedMemoryStatus": service.system_regions,
        "SystemSharedMemoryRegister": service.refuse_region,
        "SystemSharedMemoryUnregister": service.forget_system_region,
        "CudaSharedMemoryStatus": service.cuda_regions,
        "CudaSharedMemoryRegister": service.refuse_region,
        "CudaSharedMemoryUnregister": service.forget_cuda_region,
        "TraceSetting": service.trace_setting,
        "LogSettings": service.log_settings,
    }
    described = pb.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]].methods_by_name
    methods = {
        method_path(SERVICE, name): unary(getattr(pb, described[name].input_type.name), answer)
        for name, answer in answers.items()
    }
    methods[method_path(SERVICE, "ModelInfer")] = Method(unary=inference.infer)
    methods[method_path(SERVICE, "ModelStreamInfer")] = Method(streaming=inference.stream)
    return methods


def method_path(service: str, method: str) -> bytes:
    """What a call of that method has as its path."""
    return f"/{service}/{method}".encode()


def unary(request: Any, answer: Answer) -> Method:
    """A method that takes one message of a generated class and answers with one."""

    async def handle(call: Call, message: Message) -> bytes:  # noqa: ARG001 - the signature of `Unary`
        return bytes((await answer(read_message(request, message))).SerializeToString())

    return Method(unary=handle)


def _parameters(sent: Mapping[str, Any]) -> dict[str, str | int | bool]:
    found: dict[str, str | int | bool] = {}
    for name, value in sent.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None or choice == "bytes_param":
            raise ControlRefused(f"load parameter '{name[:80]}': files are not taken from requests")
        found[name] = getattr(value, choice)
    return found


def _log_change(sent: Mapping[str, Any]) -> LogChange:
    """The change a message asks for. Raises `InvalidRequest`."""
    said = {name: (value.WhichOneof("parameter_choice"), value) for name, value in sent.items()}
    try:
        return msgspec.convert({name: getattr(value, kind) for name, (kind, value) in said.items() if kind}, LogChange)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"log settings: {error}") from None
