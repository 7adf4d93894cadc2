"""The server around the calls: connections, the drain, TLS, limits of a connection."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.codec.limits import CodecLimits
from serving.door import Door
from serving.grpc.assembly import open_office
from serving.grpc.server import GrpcServer
from serving.http.fdshare import acquire_listener
from serving.http2.limits import Http2Limits
from serving.http2.stream import STREAM_WINDOW
from serving.testing import ManualClock


async def until(holds: Any) -> None:
    while True:
        if holds():
            return
        await asyncio.sleep(0.001)


async def time_passes(clock: ManualClock) -> None:
    """Until it is cancelled."""
    while True:
        clock.advance(0.01)
        await asyncio.sleep(0.001)


def serve(house: Any, port: int, rendezvous: Path, limits: Http2Limits | None = None, **rest: Any) -> GrpcServer:
    house.gateway.ready = True
    office = open_office(house.gateway, Door(house.gateway, house.clock), CodecLimits(), house.metrics, house.clock)
    return GrpcServer(office, acquire_listener("127.0.0.1", port, rendezvous=rendezvous), limits, **rest)


async def test_a_drain_finishes_what_was_accepted(desk: Any, tags: Any) -> None:
    first = desk.stub.ModelInfer(tags(1))
    batch = await desk.house.backend.started()
    passing = asyncio.ensure_future(time_passes(desk.house.clock))
    draining = asyncio.ensure_future(desk.server.drain(10_000))
    await until(lambda: all(connection._last_taken is not None for connection in desk.server.connections))
    assert not draining.done()
    batch.finish(0.001)
    assert (await first).raw_output_contents
    summary = await draining
    passing.cancel()
    assert (summary.finished, summary.aborted) == (1, 0)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await desk.stub.ModelInfer(tags(1))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_is_bounded(desk: Any, tags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = desk.stub.ModelInfer(tags(1))
    await desk.house.backend.started()
    draining = asyncio.ensure_future(desk.server.drain(5))
    await until(lambda: desk.server._doorkeeper.leaving)
    desk.house.clock.advance(6)
    summary = await draining
    assert (summary.finished, summary.aborted) == (0, 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_two_servers_share_a_port_and_one_takes_over(make_house: Any, tmp_path: Path, tags: Any) -> None:
    houses = [make_house(), make_house()]
    servers = []
    port = 0
    for house in houses:
        house.backend.hold = False
        server = serve(house, port, tmp_path / "listen", clock=house.clock)
        await server.start()
        port = server.address[1]
        servers.append(server)
    failures = []
    answered = 0
    stop = asyncio.Event()

    async def caller(number: int) -> None:
        """Half of them keep their channel, half make a new one for each call."""
        nonlocal answered
        channel = None
        while not stop.is_set():
            if channel is None:
                channel = grpc.aio.insecure_channel(
                    f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
                )
            try:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(tags(number))
                answered += 1
            except grpc.aio.AioRpcError as error:
                failures.append(error)
            if number % 2:
                await channel.close()
                channel = None
        if channel is not None:
            await channel.close()

    callers = [asyncio.ensure_future(caller(number)) for number in range(8)]
    await until(lambda: answered > 50)
    summary = await servers[0].drain(20)
    enough = answered + 50
    await until(lambda: answered > enough)
    stop.set()
    await asyncio.gather(*callers)
    assert failures == []
    assert summary.aborted == 0
    await servers[1].close()


async def test_calls_beyond_the_streams_of_a_connection_wait_at_their_client(
    make_house: Any, tmp_path: Path, tags: Any
) -> None:
    house = make_house()
    house.backend.hold = False
    server = serve(house, 0, tmp_path / "listen", Http2Limits(max_streams=3), clock=house.clock)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.address[1]}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = await asyncio.gather(*(stub.ModelInfer(tags(number)) for number in range(40)))
    assert [answer.raw_output_contents[0][0] for answer in answers] == list(range(40))
    await server.close()


async def test_tls_with_the_certificate_of_the_settings(
    make_house: Any, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    chain, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    house = make_house()
    server = serve(house, 0, tmp_path / "listen", clock=house.clock, tls=context)
    await server.start()
    trust = grpc.ssl_channel_credentials(chain.read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.address[1]}", trust, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    await server.close()


async def test_a_message_that_never_ends_is_given_up(desk: Any) -> None:
    call = desk.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")()
    await call.write(b"x" * 100)  # and no end
    await until(lambda: any(connection.streams for connection in desk.server.connections))
    (connection,) = desk.server.connections
    (stream,) = connection.streams.values()
    stream.receive(b"\x00\x00\x00\x00\x09half", ended=False)
    desk.house.clock.advance(31)
    connection.heard_s = desk.house.clock()
    connection.sweep(desk.house.clock())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() is not grpc.StatusCode.OK


async def test_requests_that_are_no_calls_are_told_so(desk: Any) -> None:
    reader, writer = await asyncio.open_connection(*desk.server.address)
    writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 505")
    writer.close()
    await writer.wait_closed()


async def test_who_sends_more_than_is_taken_waits(desk: Any) -> None:
    """A watcher of health takes one message; the others fill the window of its stream, and no more."""
    call = desk.channel.stream_stream("/grpc.health.v1.Health/Watch")()
    await call.write(b"")

    async def write() -> None:
        while True:
            await call.write(bytes(100_000))

    writing = asyncio.ensure_future(write())
    await until(
        lambda: any(stream.receive_left < 100_000 for c in desk.server.connections for stream in c.streams.values())
    )
    (connection,) = desk.server.connections
    for _ in range(50):
        await asyncio.sleep(0.001)
        assert connection.unfinished_bytes < 3 * STREAM_WINDOW
    writing.cancel()
    call.cancel()
    await until(lambda: not connection.streams)
    assert connection.unfinished_bytes == 0
