"""ModelInfer and ModelStreamInfer: messages -> `Call` -> gateway -> messages."""

import asyncio
from dataclasses import replace

from tritonclient.grpc import service_pb2 as pb

from serving.codec.budget import read_budget
from serving.codec.envelope import Parameter
from serving.codec.limits import CodecLimits
from serving.codec.merge import batch_key
from serving.codec.request import InferRequest
from serving.core.errors import GearshiftError, InternalError
from serving.door import OFF_LOOP_BYTES, Door, told
from serving.gateway import Call as GatewayCall
from serving.gateway import Gateway, Result
from serving.grpc.call import Call, log
from serving.grpc.errors import code_of
from serving.grpc.framing import Message
from serving.grpc.request import decode_request, read_message, read_parameters
from serving.grpc.response import encode_response
from serving.lane import Lane
from serving.observer import Watched
from serving.ports import Clock

MAX_IN_FLIGHT = 64
"""Requests of one stream that are worked on at a time."""
FINAL_WANTED = "triton_enable_empty_final_response"
FINAL = "triton_final_response"


class Inference:
    """The two calls that answer inferences."""

    def __init__(self, gateway: Gateway, door: Door, limits: CodecLimits, clock: Clock) -> None:
        self._gateway = gateway
        self._door = door
        self._limits = limits
        self._clock = clock

    async def infer(self, call: Call, message: Message) -> bytes:
        """ModelInfer. The caller's deadline is a latency budget; a caller who leaves cancels this task."""
        if len(message) > OFF_LOOP_BYTES:
            sent = await asyncio.to_thread(read_message, pb.ModelInferRequest, message)
        else:
            sent = read_message(pb.ModelInferRequest, message)
        answer = await self._answer(call, sent, call.received_s, len(message))
        if answer.ByteSize() > OFF_LOOP_BYTES:
            return await asyncio.to_thread(answer.SerializeToString)
        return bytes(answer.SerializeToString())

    async def stream(self, call: Call) -> None:
        """ModelStreamInfer: answers in the order of the requests; what fails is told in the stream, which goes on."""
        flying: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(MAX_IN_FLIGHT)

        async def take() -> None:
            while (message := await call.next()) is not None:
                await flying.put(group.create_task(self._streamed(call, message, call.received_s)))
            await flying.put(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            while (task := await flying.get()) is not None:
                await call.send_message(await task)

    async def _streamed(self, call: Call, message: Message, received_s: float) -> bytes:
        """One answer of a stream, or the error in its place."""
        answer = pb.ModelStreamInferResponse()
        try:
            sent = read_message(pb.ModelInferRequest, message)
            answer.infer_response.id = sent.id  # of an error too: it says whose it is
            answer.infer_response.CopyFrom(await self._answer(call, sent, received_s, len(message)))
        except GearshiftError as error:
            call.count_refusal(code_of(error))
            answer.error_message = str(error)
        except Exception as error:  # noqa: BLE001 - the other requests of the stream go on
            error_id = self._door.new_id()
            log.error("a request of a stream failed", exc_info=error, extra={"request_id": error_id})
            answer.error_message = f"internal error (request {error_id})"
            call.count_refusal(code_of(InternalError()))
        return bytes(answer.SerializeToString())

    async def _answer(
        self, call: Call, sent: pb.ModelInferRequest, received_s: float, size: int
    ) -> pb.ModelInferResponse:
        with self._gateway.lane(sent.model_name, sent.model_version or None) as lane:
            parameters = read_parameters(sent.parameters, self._limits)
            budget = read_budget(lane.default_budget, parameters, call.head.budget)
            deadline_s = call.deadline_s
            if deadline_s is not None and deadline_s - received_s < budget.latency_s:
                budget = replace(budget, latency_s=max(deadline_s - received_s, 1e-6))
            observer = self._door.observer
            watched = None if observer is None else observer.begin(lane, received_s, call.head.traceparent)
            try:
                await self._door.enter(lane, budget.latency_s, received_s)
                request = await self._decode(lane, sent, parameters, size, watched)
                result = await self._gateway.infer(
                    lane,
                    GatewayCall(
                        inputs=request.inputs,
                        rows=request.rows,
                        budget=budget,
                        received_s=received_s,
                        size_bytes=size,
                        group=batch_key(request.inputs, lane.paddings) if lane.free_axes else None,
                        trace=None if watched is None else watched.trace,
                    ),
                )
                answer = await self._encode(lane, request, result, watched)
            except GearshiftError as error:
                if watched is not None:
                    watched.end(self._id_of(call), code_of(error).name, error=str(error))
                raise
            if watched is not None:
                watched.end(self._id_of(call), "OK", result)
            return answer

    async def _decode(
        self,
        lane: Lane,
        sent: pb.ModelInferRequest,
        parameters: dict[str, Parameter],
        size: int,
        watched: Watched | None,
    ) -> InferRequest:
        started_s = self._clock()
        if size > OFF_LOOP_BYTES:
            request = await asyncio.to_thread(decode_request, sent, parameters, family=lane.family, limits=self._limits)
        else:
            request = decode_request(sent, parameters, family=lane.family, limits=self._limits)
        lane.decode_s.value += self._clock() - started_s
        if watched is not None:
            watched.stage("decode", started_s)
        return request

    async def _encode(
        self, lane: Lane, request: InferRequest, result: Result, watched: Watched | None
    ) -> pb.ModelInferResponse:
        started_s = self._clock()
        parameters = told(result)
        if request.parameters.get(FINAL_WANTED) is True:
            parameters[FINAL] = True
        if sum(array.nbytes for array in result.outputs.values()) > OFF_LOOP_BYTES:
            answer = await asyncio.to_thread(encode_response, lane.family, request, result.outputs, parameters)
        else:
            answer = encode_response(lane.family, request, result.outputs, parameters)
        lane.encode_s.value += self._clock() - started_s
        if watched is not None:
            watched.stage("encode", started_s)
        return answer

    def _id_of(self, call: Call) -> str:
        return call.head.request_id.decode("ascii") or self._door.new_id()
