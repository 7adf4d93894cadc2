"""ModelInfer and ModelStreamInfer of grpcio's own client, before a gateway whose batches end when told."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.ports import ModelFailed, WorkerLost

Tags = Callable[..., pb.ModelInferRequest]


async def infer(desk: Any, request: pb.ModelInferRequest, **rest: Any) -> pb.ModelInferResponse:
    """A call whose batch is finished as soon as it starts."""
    call = asyncio.ensure_future(_call(desk, request, **rest))
    (await desk.house.backend.started()).finish(0.001)
    return await call


async def _call(desk: Any, request: pb.ModelInferRequest, **rest: Any) -> pb.ModelInferResponse:
    return await desk.stub.ModelInfer(request, **rest)


async def until(holds: Callable[[], object]) -> None:
    """Return when it does; whoever waits for ever is ended by the test's own limit."""
    while True:
        if holds():
            return
        await asyncio.sleep(0.001)


async def failing(awaitable: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await awaitable
    return failed.value


async def test_a_request_is_answered_with_what_it_was_answered_by(desk: Any, tags: Tags) -> None:
    answer = await infer(desk, tags(7, 8, request_id="mine"))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "mine")
    assert answer.raw_output_contents[0] == tags(7, 8).raw_input_contents[0]
    assert answer.parameters["variant"].string_param == "large"
    assert answer.parameters["accuracy"].double_param == 0.9
    assert answer.parameters["batch_rows"].int64_param == 2
    assert answer.parameters["deadline_met"].bool_param
    assert desk.house.counts() == {"met": 1}


async def test_budgets_come_as_parameters_as_metadata_and_as_the_callers_deadline(desk: Any, tags: Tags) -> None:
    pinned = await infer(desk, tags(1, variant="small"))
    assert pinned.parameters["reason"].string_param == "pinned"
    fast = await infer(desk, tags(1), metadata=[("latency-budget-ms", "5")])
    assert fast.parameters["variant"].string_param == "small"
    over = await infer(desk, tags(1, latency_budget_ms=500.0), metadata=[("latency-budget-ms", "5")])
    assert over.parameters["variant"].string_param == "large", "parameters win over metadata"

    call = desk.stub.ModelInfer(tags(1), timeout=60)
    batch = await desk.house.backend.started()
    assert batch.budget_s <= 1.0, "the smaller of the caller's deadline and the model's default"
    batch.finish(0.001)
    await call
    call = desk.stub.ModelInfer(tags(1, latency_budget_ms=100_000.0), timeout=50)
    batch = await desk.house.backend.started()
    assert 45 < batch.budget_s < 51, "gRPC writes long times with few digits"
    batch.finish(0.001)
    await call


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"model": "nobody"}, "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        ({"variant": "nobody"}, "NOT_FOUND", "nobody"),
        ({"min_accuracy": 0.99}, "INVALID_ARGUMENT", "accuracy"),
        ({"min_accuracy": 7.0}, "INVALID_ARGUMENT", "parameter 'min_accuracy': expected a number >= 0 and <= 1"),
        ({"latency_budget_ms": 1e-4}, "INVALID_ARGUMENT", "the nearest feasible latency_budget_ms is"),
    ],
)
async def test_refusals_have_codes_texts_and_are_counted(
    desk: Any, tags: Tags, change: dict[str, Any], code: str, text: str
) -> None:
    refused = await failing(_call(desk, tags(1, **change)))
    assert refused.code().name == code
    assert text in (refused.details() or "")
    assert desk.refused(code) == 1


async def test_failures_of_a_batch_have_their_codes(desk: Any, tags: Tags) -> None:
    for error, code in ((ModelFailed("x"), "INVALID_ARGUMENT"), (WorkerLost("x"), "UNAVAILABLE")):
        call = asyncio.ensure_future(_call(desk, tags(1)))
        (await desk.house.backend.started()).fail(error)
        assert (await failing(call)).code().name == code


async def test_a_broken_message_is_refused(desk: Any) -> None:
    call = desk.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    refused = await failing(call(b"\xff\xff"))
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.details() == "the message is not a ModelInferRequest"


async def test_a_defect_of_ours_gives_nothing_away(desk: Any, tags: Tags, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.house.gateway, "infer", None)
    failed = await failing(_call(desk, tags(1), metadata=[("x-request-id", "abc")]))
    assert (failed.code(), failed.details()) == (grpc.StatusCode.INTERNAL, "internal error (request abc)")


async def test_an_overload_says_when_to_try_again(desk: Any, tags: Tags) -> None:
    calls = [asyncio.ensure_future(_call(desk, tags(*range(200), latency_budget_ms=400.0))) for _ in range(80)]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    refused = await failing(done.pop())
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(refused.trailing_metadata() or ())
    assert int(trailers["grpc-retry-pushback-ms"]) > 0
    assert int(trailers["retry-after"]) > 0
    for call in waiting:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_caller_who_leaves_leaves_the_queue(desk: Any, tags: Tags) -> None:
    running = asyncio.ensure_future(_call(desk, tags(1)))
    batch = await desk.house.backend.started()
    waiting = desk.stub.ModelInfer(tags(2))
    await until(lambda: desk.house.lane.scheduler.queue)
    waiting.cancel()
    await until(lambda: not desk.house.lane.scheduler.queue)
    batch.finish(0.001)
    await running
    assert desk.house.counts() == {"met": 1, "cancelled": 1}
    assert len(desk.house.backend.batches) == 1


async def test_a_caller_whose_deadline_passes_is_told_and_cancelled(desk: Any, tags: Tags) -> None:
    failed = await failing(_call(desk, tags(1), timeout=0.2))
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: desk.house.counts())
    assert desk.house.counts() == {"cancelled": 1}


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_calls_get_compressed_answers(desk: Any, tags: Tags, algorithm: grpc.Compression) -> None:
    written: list[bytes] = []
    (connection,) = await connected(desk)
    write = connection._outbox.write

    def note(*parts: Any) -> None:
        written.extend(bytes(part) for part in parts)
        write(*parts)

    connection._outbox.write = note
    request = tags(*[5] * 250)
    answer = await infer(desk, request, compression=algorithm)
    assert answer.raw_output_contents[0] == request.raw_input_contents[0]
    coding = {grpc.Compression.Gzip: (b"gzip", 31), grpc.Compression.Deflate: (b"deflate", 15)}[algorithm]
    sent = b"".join(written)
    assert b"grpc-encoding" in sent
    assert coding[0] in sent
    message = next(part for part in written if part[:1] == b"\x01" and len(part) > 50)
    assert len(zlib.decompress(message[5:], wbits=coding[1])) > len(message)


async def connected(desk: Any) -> frozenset[Any]:
    await desk.channel.channel_ready()
    await until(lambda: desk.server.connections)
    return desk.server.connections


async def test_large_messages_go_both_ways(make_desk: Any, tags: Tags) -> None:
    desk = await make_desk(max_binary_bytes=1024)
    refused = await failing(_call(desk, tags(*range(200), request_id="x" * 100_000)))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the message is larger than" in (refused.details() or "")
    assert dict(refused.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "-1"


async def test_a_stream_answers_in_the_order_of_its_requests(desk: Any, tags: Tags) -> None:
    desk.house.backend.hold = False
    stream = desk.stub.ModelStreamInfer()
    for number in range(100):
        model = "nobody" if number % 10 == 3 else "m"
        await stream.write(tags(number, model=model, request_id=str(number), triton_enable_empty_final_response=True))
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(100)]
    for number, answer in enumerate(answers):
        if number % 10 == 3:
            assert answer.error_message == "Request for unknown model: 'nobody' is not found"
        else:
            assert answer.infer_response.raw_output_contents[0] == number.to_bytes(8, "little")
            assert answer.infer_response.parameters["triton_final_response"].bool_param
    assert await stream.code() is grpc.StatusCode.OK
    assert desk.refused("NOT_FOUND") == 10


async def test_requests_of_a_stream_wait_together(desk: Any, tags: Tags) -> None:
    stream = desk.stub.ModelStreamInfer()
    await stream.write(tags(0))
    first = await desk.house.backend.started()
    for number in range(1, 9):
        await stream.write(tags(number))
    await until(lambda: len(desk.house.lane.scheduler.queue) == 8)
    first.finish(0.001)
    second = await desk.house.backend.started()
    assert len(second.inputs["tag"]) > 1, "requests of one stream share a batch"
    desk.house.backend.hold = False
    second.finish(0.001)
    await stream.done_writing()
    assert [answer.infer_response.raw_output_contents[0][0] async for answer in stream] == list(range(9))


async def test_a_stream_that_is_cancelled_takes_its_requests_with_it(desk: Any, tags: Tags) -> None:
    stream = desk.stub.ModelStreamInfer()
    for number in range(5):
        await stream.write(tags(number, variant="small" if number else "large"))
    await desk.house.backend.started()
    await until(lambda: len(desk.house.lane.scheduler.queue) == 4)
    stream.cancel()
    await until(lambda: sum(desk.house.counts().values()) == 5)
    assert desk.house.counts() == {"cancelled": 5}
    assert not desk.house.lane.scheduler.queue


async def test_an_empty_stream_ends_well(desk: Any) -> None:
    stream = desk.stub.ModelStreamInfer()
    await stream.done_writing()
    assert [answer async for answer in stream] == []
    assert await stream.code() is grpc.StatusCode.OK
