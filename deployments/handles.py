"""A `VariantBackend` over a Ray Serve handle: one call a batch, to the worker it was booked on."""

import asyncio
import logging
import time
from typing import Any

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from deployments.payload import pack, size_of, unpack
from deployments.worker import Away, Ran, Refused
from models.trace_context import TRACEPARENT
from serving.ports import Execution, ModelFailed, Tensors, VariantUnavailable, WorkerLost

BY_REFERENCE_BYTES = 512 * 1024
"""Above this a batch goes through shared memory: gRPC copies it, which costs more than the detour."""
MIN_TIMEOUT_S = 1.0
"""A worker is not given up on before this, however short the budget: the result may only be late."""
TIMEOUT_MARGIN_S = 2.0
TRIES = 2

log = logging.getLogger("gearshift.handles")

LOST = (RayError, RayServeException, grpc.aio.AioRpcError, asyncio.TimeoutError, ConnectionError)
"""How a call that a worker did not answer ends."""


class HandleBackend:
    """The workers of the split topology, as seen from one gateway replica."""

    depth = 2
    """One batch runs while the next is on its way."""
    batch_overhead_s = 0.001
    """Assumed, not measured: packing, the call, and its way back."""

    def __init__(self, handle: Any, own: range) -> None:
        """`handle`: a DeploymentHandle of `Worker`; `own`: the numbers of its replicas to send to (`own_workers`)."""
        self.own = own
        # Both ways are prepared once: options() copies the handle.
        plain = {"request_serialization": "pickle", "response_serialization": "pickle"}
        self._direct = handle.options(method_name="run", **plain)
        self._by_reference = handle.options(method_name="run", _by_reference=True)
        self._calls: set[asyncio.Future[Any]] = set()
        self._closed = False

    @property
    def workers(self) -> int:
        """See `VariantBackend.workers`."""
        return len(self.own)

    async def run(self, model: str, variant: str, inputs: Tensors, budget_s: float, worker: int = 0) -> Execution:
        """See `VariantBackend.run`. Tried once more on another worker when one is lost and time is left."""
        give_up_s = time.monotonic() + max(budget_s, MIN_TIMEOUT_S) + TIMEOUT_MARGIN_S
        packed = pack(inputs)
        handle = self._direct if size_of(inputs) <= BY_REFERENCE_BYTES else self._by_reference
        traceparent = TRACEPARENT.get()
        traced = () if traceparent is None else (traceparent,)
        started_s = time.monotonic()
        for attempt in range(1, TRIES + 1):
            left_s = budget_s - (time.monotonic() - started_s)
            try:
                number = self.own[worker % len(self.own)] + attempt - 1  # another try goes to the next worker
                result = await self._call(handle, (model, variant, packed, left_s, *traced), number, give_up_s)
            except LOST as error:
                # Running a batch twice is harmless, but pointless once every deadline in it has passed.
                if attempt == TRIES or left_s <= 0 or self._closed or isinstance(error, asyncio.TimeoutError):
                    raise WorkerLost(type(error).__name__) from error
                log.warning("worker lost, trying another", extra={"model": model, "error": type(error).__name__})
                continue
            if isinstance(result, Refused):
                raise ModelFailed(result.message)
            if isinstance(result, Away):
                raise VariantUnavailable(result.message)
            return Execution(unpack(result.outputs), result.compute_s, result.service_s)
        raise AssertionError("the last try returns or raises")

    async def close(self) -> None:
        """See `VariantBackend.close`. The workers belong to Ray Serve and go when it stops them."""
        self._closed = True
        for call in tuple(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _call(
        self, handle: Any, arguments: tuple[Any, ...], number: int, give_up_s: float
    ) -> Ran | Refused | Away:
        if self._closed:
            raise WorkerLost("the backend is closed")
        response = handle.remote(*arguments, worker=number)
        waiting = asyncio.ensure_future(_result(response))
        self._calls.add(waiting)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + give_up_s - time.monotonic()):
                return await waiting
        except asyncio.CancelledError:
            if self._closed:
                raise WorkerLost("the backend was closed") from None
            raise
        finally:
            self._calls.discard(waiting)
            if not waiting.done():
                waiting.cancel()
                response.cancel()


async def _result(response: Any) -> Ran | Refused | Away:
    result: Ran | Refused | Away = await response
    return result
