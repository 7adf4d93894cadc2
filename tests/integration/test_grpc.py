"""gRPC of real servers, by grpcio and tritonclient: every topology, large messages, cancellation, replacement."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.integration.harness.servers import Server, eventually, running

SETTLE_S = 30.0


def channel_to(server: Server, **options: object) -> grpc.aio.Channel:
    """A connection of its own: grpcio shares them where it can."""
    chosen = {"grpc.use_local_subchannel_pool": 1, "grpc.max_receive_message_length": -1} | options
    return grpc.aio.insecure_channel(f"{server.host}:{server.grpc_port}", options=list(chosen.items()))


def request_of(model: str, name: str, array: np.ndarray, **parameters: Any) -> pb.ModelInferRequest:
    kinds = {np.dtype("f4"): "FP32", np.dtype("i8"): "INT64", np.dtype("u1"): "UINT8"}
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=kinds[array.dtype], shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    for key, value in parameters.items():
        setattr(request.parameters[key], "string_param" if isinstance(value, str) else "double_param", value)
    return request


def scale_of(answer: pb.ModelInferResponse) -> np.ndarray:
    names = [output.name for output in answer.outputs]
    return np.frombuffer(answer.raw_output_contents[names.index("y")], "<f4").reshape(-1, 4)


async def test_every_answer_belongs_to_its_request(server: Server) -> None:
    """Many calls in flight on one connection: an answer that went to another caller is the worst failure."""
    async with channel_to(server) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def call(number: int) -> None:
            rows = np.full((1 + number % 3, 4), number, np.float32)
            answer = await stub.ModelInfer(request_of("scale", "x", rows), timeout=SETTLE_S)
            np.testing.assert_array_equal(scale_of(answer), rows * 3)

        for first in range(0, 400, 80):
            await asyncio.gather(*(call(number) for number in range(first, first + 80)))


async def test_large_messages_travel_both_ways(server: Server) -> None:
    rows = np.random.default_rng(0).random((64, 60_000), np.float32)  # 15 MB, and as much back
    async with channel_to(server) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = request_of("free", "x", rows)
        answer = await stub.ModelInfer(request, timeout=SETTLE_S)
        np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(rows.shape), rows * 5)
        packed = await stub.ModelInfer(request, timeout=SETTLE_S, compression=grpc.Compression.Gzip)
        assert packed.raw_output_contents == answer.raw_output_contents
        small = await asyncio.gather(
            stub.ModelInfer(request, timeout=SETTLE_S), stub.ServerLive(pb.ServerLiveRequest())
        )
        assert small[1].live


async def test_a_stream_of_many_requests_keeps_their_order(server: Server) -> None:
    async with channel_to(server) as channel:
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(timeout=60)

        async def ask() -> None:
            for number in range(300):
                request = request_of("scale", "x", np.full((1, 4), number, np.float32))
                request.id = str(number)
                await stream.write(request)
            await stream.done_writing()

        asking = asyncio.ensure_future(ask())
        number = 0
        async for answer in stream:
            assert (answer.error_message, answer.infer_response.id) == ("", str(number))
            assert scale_of(answer.infer_response).tolist() == [[number * 3.0] * 4]
            number += 1
        await asking
        assert number == 300


async def test_callers_who_leave_are_counted_and_cost_nothing(server: Server) -> None:
    before = server.outcomes("slow")
    async with channel_to(server) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await channel.channel_ready()
        calls = [stub.ModelInfer(request_of("slow", "x", np.full((1, 1), n, np.float32))) for n in range(100)]
        await asyncio.sleep(0.2)  # let them arrive
        for call in calls:
            call.cancel()
        expiring = [
            stub.ModelInfer(
                request_of("slow", "x", np.ones((1, 1), np.float32), latency_budget_ms=100_000.0), timeout=2
            )
            for _ in range(100)
        ]
        ended = await asyncio.gather(*expiring, return_exceptions=True)
        codes = {end.code().name for end in ended if isinstance(end, grpc.aio.AioRpcError)}
        assert codes <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}

    def settled() -> object:
        queue = server.metric("gearshift_queue_rows", model="slow")
        busy = server.metric("gearshift_workers_busy")
        return (queue, busy) == (0, 0) or f"{queue:g} rows, {busy:g} busy"

    eventually("the queue is empty and the workers are idle", settled, within_s=10)
    counted = {name: count - before[name] for name, count in server.outcomes("slow").items()}
    assert counted["cancelled"] > 0
    assert counted["failed"] == 0


async def test_two_replicas_share_the_port(ray_colocated: Server) -> None:
    """Clients are spread over them, and both answer."""
    channels = [channel_to(ray_colocated) for _ in range(24)]
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    for _ in range(5):
        answers = await asyncio.gather(
            *(stub.ModelInfer(request_of("scale", "x", np.ones((1, 4), np.float32))) for stub in stubs)
        )
        assert all(scale_of(answer).tolist() == [[3.0] * 4] for answer in answers)
    holders = {
        process.pid: sum(
            connection.status == "ESTABLISHED" and connection.laddr.port == ray_colocated.grpc_port
            for connection in process.net_connections("tcp")
        )
        for process in ray_colocated.processes()
        if "ServeReplica:gearshift:gateway" in " ".join(process.cmdline())
    }
    for channel in channels:
        await channel.close()
    assert len(holders) == 2
    assert all(count > 0 for count in holders.values()), holders


async def test_health_goes_with_the_drain(
    start: Callable[..., Server],
) -> None:
    server = start("--engine", "inprocess", env={"GEARSHIFT_SERVER__LAME_DUCK_S": "2"})
    async with channel_to(server) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert await stopping == 0


async def under_load(server: Server, meanwhile: Callable[[], None], *, keep: bool) -> tuple[int, list[str]]:
    """16 callers at work while something happens in a thread, and a little longer: answers, and failures."""
    answered = 0
    failures: list[str] = []
    over: list[float] = []

    async def caller(number: int) -> None:
        nonlocal answered
        channel = channel_to(server)
        turn = 0
        while not over or time.monotonic() < over[0] + 1:
            turn += 1
            rows = np.full((1, 4), number * 1000 + turn, np.float32)
            try:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                answer = await stub.ModelInfer(request_of("scale", "x", rows), timeout=SETTLE_S)
                assert scale_of(answer).tolist() == (rows * 3).tolist()
                answered += 1
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
            if not keep:
                await channel.close()
                channel = channel_to(server)
        await channel.close()

    async def event() -> None:
        try:
            await asyncio.sleep(1)  # the callers are at work
            await asyncio.to_thread(meanwhile)
        finally:
            over.append(time.monotonic())

    tasks: list[Awaitable[None]] = [caller(number) for number in range(16)]
    await asyncio.gather(*tasks, event())
    return answered, failures


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize("keep", [True, False], ids=["kept connections", "a connection a call"])
async def test_a_rolling_replacement_fails_no_call(
    keep: bool, repository: Path, profile_cache: Path, tmp_path: Path
) -> None:
    log = tmp_path / "rolling.log"
    command = ("-m", "tests.integration.harness.rolling")
    server = Server("rolling", ("--models", str(repository)), cache=profile_cache, log=log, command=command)

    def replace() -> None:
        assert server.process.stdin is not None
        server.process.stdin.write(b"\n")
        server.process.stdin.flush()
        eventually("the replicas are replaced", lambda: "replaced" in log.read_text() or log.read_text()[-500:], 100)

    with running(server):
        answered, failures = await under_load(server, replace, keep=keep)
        assert failures == []
        assert answered > 200
