import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.codec.limits import CodecLimits
from serving.config import Settings
from serving.door import Door
from serving.grpc.assembly import open_office
from serving.grpc.server import GrpcServer
from serving.http.fdshare import acquire_listener
from serving.http2.limits import Http2Limits
from serving.metrics import stat
from tests.support.gateways import House


@dataclass
class Desk:
    """A gRPC server in front of a house, and a client of grpcio's."""

    house: House
    server: GrpcServer
    channel: grpc.aio.Channel

    @property
    def stub(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        return service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    @property
    def target(self) -> str:
        host, port = self.server.address
        return f"{host}:{port}"

    def refused(self, code: str) -> float:
        """Refusals counted with that code."""
        self.house.metrics.flush()
        return stat(self.house.metrics.collect(), "gearshift_refused_total", status=code)


@pytest.fixture
async def make_desk(make_house: Callable[..., House], tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Desk]]]:
    """Makes desks: of a house, or of a new one; `rest` are codec limits. Closed after the test."""
    desks: list[Desk] = []

    async def make(
        house: House | None = None, control: Any = None, settings: Settings | None = None, **rest: Any
    ) -> Desk:
        house = house or make_house()
        house.gateway.ready = True
        office = open_office(
            house.gateway,
            Door(house.gateway, house.clock),
            CodecLimits(**rest),
            house.metrics,
            house.clock,
            control,
            settings,
        )
        listening = acquire_listener("127.0.0.1", 0, rendezvous=tmp_path / "listen")
        server = GrpcServer(office, listening, Http2Limits(), clock=house.clock)
        await server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.address[1]}", options=[("grpc.enable_retries", 0)])
        desks.append(Desk(house, server, channel))
        return desks[-1]

    yield make
    for desk in desks:
        await desk.channel.close()
        await desk.server.close()


@pytest.fixture
async def desk(make_desk: Callable[..., Awaitable[Desk]]) -> Desk:
    return await make_desk()


@pytest.fixture
def tags() -> Callable[..., pb.ModelInferRequest]:
    """A request whose rows carry these tags."""

    def make(*numbers: int, model: str = "m", request_id: str = "", **parameters: Any) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name=model, id=request_id)
        request.inputs.add(name="tag", datatype="INT64", shape=[len(numbers)])
        request.raw_input_contents.append(b"".join(number.to_bytes(8, "little") for number in numbers))
        for name, value in parameters.items():
            kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
            setattr(request.parameters[name], kind, value)
        return request

    return make


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of a server called localhost."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(key), "-out", str(chain), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key
