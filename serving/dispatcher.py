"""The asyncio driver of the schedulers: wakes on arrivals, free workers and timers; runs what they decide."""

import asyncio
import contextvars
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from serving.codec.merge import BatchError, merge, split
from serving.core.admission import Admitted, Rejected
from serving.core.errors import Expired, GearshiftError, InputRefusedByModel, InternalError, Unavailable
from serving.core.request import Request
from serving.core.scheduler import Dispatch, Expire, Wait
from serving.core.shares import Shares
from serving.core.workers import Workers
from serving.lane import Lane
from serving.ports import (
    Clock,
    ExecutionError,
    ModelFailed,
    Tensors,
    VariantBackend,
    VariantUnavailable,
    WorkerLost,
)
from serving.remotes import Remotes
from serving.tracing import Trace, Tracer

PATIENCE_S = 5.0
"""How long past every deadline in it a batch may run before its worker counts as lost."""
MIN_TIMER_S = 0.0005
IDLE_POLL_S = 0.02
"""How often a lane that is to go is looked at."""
WORKER_LOST = "the worker was lost before it answered; the request may be sent again"
AWAY = "the only variant that meets this budget did not answer; the request may be sent again"
STOPPED = "the server stopped before the request was answered"

log = logging.getLogger("gearshift.dispatcher")


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's part of a batch."""

    outputs: Tensors
    variant: int
    batch_rows: int
    started_s: float
    """When its batch was dispatched."""
    compute_s: float
    service_s: float
    predicted_s: float


@dataclass(slots=True, eq=False)
class Pending:
    """What waits for an answer: the payload of a `Request`."""

    inputs: Tensors
    future: asyncio.Future[Answer]
    trace: Trace | None = None
    """Where its way is told, when it is traced."""
    abandoned: bool = False
    """Whether the caller went away."""

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.abandoned = True
        self.future.cancel()


class Dispatcher:
    """Lanes on one side, workers on the other; every admitted request gets exactly one end."""

    def __init__(
        self, backend: VariantBackend, lanes: Sequence[Lane], clock: Clock, tracer: Tracer | None = None
    ) -> None:
        """Must be made inside the event loop that will run it."""
        self._tracer = tracer
        self._backend = backend
        self._lanes: tuple[Lane, ...] = tuple(lanes)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.workers = Workers(backend.workers, backend.depth)
        self._pump_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._batches: dict[asyncio.Task[None], tuple[Dispatch, float]] = {}
        self._closed = False
        self.busy_s = 0.0
        self._shares: Shares[Lane] = Shares()
        for lane in self._lanes:
            self._shares.add(lane, lane.weight)
        self._remotes = {lane: self._watch(lane) for lane in self._lanes}

    def add(self, lane: Lane) -> None:
        """Serve one lane more."""
        self._lanes = (*self._lanes, lane)
        self._shares.add(lane, lane.weight)
        self._remotes[lane] = self._watch(lane)

    def _watch(self, lane: Lane) -> Remotes:
        return Remotes(lane, self._clock, lambda requests: _fail(requests, Unavailable(AWAY)))

    async def remove(self, lane: Lane) -> None:
        """Serve a lane no longer, once nobody needs it. Nobody must find it any more."""
        while True:
            if lane.idle or self._closed:
                break
            await asyncio.sleep(IDLE_POLL_S)
        lane.closed = True
        self._remotes.pop(lane).close()
        self._lanes = tuple(other for other in self._lanes if other is not lane)
        self._shares.remove(lane)

    def submit(self, lane: Lane, request: Request) -> Admitted | Rejected:
        """Offer a request; when it is admitted its future will be settled. Raises `Unavailable` after `close`."""
        if self._closed or lane.closed:
            raise Unavailable(STOPPED)
        now_s = self._clock()
        self._shares.asked(lane, lane.scheduler.work_s(request), len(self.workers), now_s)
        free_at_s, _ = self._counted(lane, now_s)
        verdict = lane.scheduler.offer(request, now_s, free_at_s)
        # While every worker is busy only who goes first could change anything: the timer is set for the head's sake.
        if isinstance(verdict, Admitted) and (self.workers.idle or lane.scheduler.queue.head is request):
            self._wake()
        return verdict

    def turn_away(self, lane: Lane, received_s: float, deadline_s: float) -> Rejected | None:
        """A refusal for a request that nobody has read yet, in an overload; else None."""
        now_s = self._clock()
        free_at_s, _ = self._counted(lane, now_s)
        return lane.scheduler.turn_away(received_s, deadline_s, now_s, free_at_s)

    def follow(self) -> None:
        """Count on as many workers as the backend has now. To be called now and then where their number changes."""
        if len(self.workers) != self._backend.workers:
            self.workers.resize(self._backend.workers)
            self._wake()

    def cancel(self, lane: Lane, request: Request) -> None:
        """The caller of an admitted request went away."""
        lane.scheduler.cancel(request)

    def oldest_batch_s(self) -> float:
        """Age of the batch that has been running longest; 0 when none is."""
        return max((self._clock() - started_s for _, started_s in self._batches.values()), default=0.0)

    async def close(self) -> None:
        """Give up on what is queued and in flight; every request still waiting is told."""
        self._closed = True
        for remotes in self._remotes.values():
            remotes.close()
        if self._timer is not None:
            self._timer.cancel()
        flying = dict(self._batches)
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
        for batch, _ in flying.values():
            _fail(batch.requests, Unavailable(STOPPED))
        for lane in self._lanes:
            waiting = tuple(lane.scheduler.queue)
            lane.scheduler.queue.take(waiting)
            _fail(waiting, Unavailable(STOPPED))

    def _wake(self) -> None:
        """Decide once the events at hand are handled: requests that arrive together can share a batch."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Let the schedulers decide until none has anything to do now; then sleep until the next moment."""
        self._pump_due = False
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at_s = float("inf")
        for lane in self._in_order():
            wake_at_s = min(wake_at_s, self._serve(lane))
        if wake_at_s < float("inf"):
            self._timer = self._loop.call_later(max(wake_at_s - self._clock(), MIN_TIMER_S), self._pump)

    def _in_order(self) -> Sequence[Lane]:
        waiting = [(lane.scheduler.queue.head.deadline_s, lane) for lane in self._lanes if lane.scheduler.queue]
        return self._shares.order(waiting, self._clock())

    def _counted(self, lane: Lane, now_s: float) -> tuple[Sequence[float], float]:
        """When the workers that the lane may count on are free, and how much of their time is its own."""
        contended = any(other.scheduler.queue for other in self._lanes if other is not lane)
        return self._shares.counted(lane, now_s, self.workers.free_at_s(now_s), contended=contended)

    def _serve(self, lane: Lane) -> float:
        """Carry out one lane's decisions; returns when it wants to be asked again."""
        while True:
            now_s = self._clock()
            decision = lane.scheduler.decide(now_s, self.workers.idle, *self._counted(lane, now_s))
            match decision:
                case Dispatch():
                    self._start(lane, decision, now_s)
                case Expire(requests):
                    _fail(requests, Expired("the deadline could no longer be met: nothing was executed"))
                case Wait(until_s):
                    return until_s

    def _start(self, lane: Lane, batch: Dispatch, now_s: float) -> None:
        worker = self.workers.start(now_s, batch.expected_s + lane.scheduler.hand_over_s)
        self._shares.charge(lane, batch.expected_s, len(self.workers), now_s)
        lane.in_flight += 1
        # A clean context: a batch belongs to all its requests, so it must not inherit (and be cancelled
        # with) the context of the one whose arrival happened to start it.
        task = self._loop.create_task(self._run(lane, batch, worker, now_s), context=contextvars.Context())
        self._batches[task] = batch, now_s
        task.add_done_callback(self._batches.pop)

    async def _run(self, lane: Lane, batch: Dispatch, worker: int, started_s: float) -> None:
        """One batch, from its worker's start to the worker's end; nobody in it is left waiting."""
        try:
            await self._answer(lane, batch, worker, started_s)
        except Exception:
            log.exception("batch failed", extra={"model": lane.key, "rows": batch.rows})
            _fail(batch.requests, InternalError("internal error"))
        finally:
            now_s = self._clock()
            self.busy_s += now_s - started_s
            self.workers.finish(worker, now_s)
            lane.in_flight -= 1
            self._pump()

    async def _answer(self, lane: Lane, batch: Dispatch, worker: int, started_s: float) -> None:
        try:
            service_s = await self._execute(lane, batch, batch.requests, worker, started_s)
        except ModelFailed as error:
            failure = error
        except VariantUnavailable as error:
            self._go_without(lane, batch.variant, batch.requests, str(error))
            return
        except ExecutionError as error:
            log.warning("batch lost: %s", error, extra={"model": lane.key, "rows": batch.rows})
            _fail(batch.requests, Unavailable(WORKER_LOST))
            return
        else:
            kept_s = self.workers.kept_s(worker, self._clock())
            if kept_s is not None:
                lane.scheduler.observe_hand_over(kept_s - service_s)
            return
        await self._find_guilty(lane, batch, worker, failure)

    async def _execute(
        self, lane: Lane, batch: Dispatch, requests: Sequence[Request], worker: int, started_s: float
    ) -> float:
        """Run these requests of a batch and answer them; returns the time the model took, in seconds."""
        rows = [request.rows for request in requests]
        total = sum(rows)
        variant = lane.variants[batch.variant]
        inputs = merge([request.payload.inputs for request in requests], lane.paddings)
        patience_s = max(request.deadline_s for request in requests) - started_s
        budget_s = _budget_s(lane, batch, requests, started_s, patience_s)
        crowd = self.workers.crowd
        trace = None
        if self._tracer is not None:
            members = [request.payload for request in requests]
            trace = self._tracer.batch(members, lane.key, variant.name, total, started_s)
        merged_s = self._clock()
        try:
            async with asyncio.timeout(max(patience_s, batch.expected_s) + PATIENCE_S):
                execution = await self._backend.run(lane.key, variant.name, inputs, budget_s, worker)
        except TimeoutError as error:
            lost = VariantUnavailable if variant.elsewhere else WorkerLost
            raise lost("no result long after every deadline") from error
        finally:
            if trace is not None:
                trace.end(merged_s, self._clock(), sys.exception())
        finished_s = self._clock()
        if variant.elsewhere:
            self._remotes[lane].succeeded(batch.variant)
        lane.count_batch(batch.variant, total, execution, finished_s, crowd)
        parts = _split(lane, execution.outputs, rows)
        lane.count_stages(total, merged_s - started_s, execution.compute_s, self._clock() - finished_s)
        for request, outputs in zip(requests, parts, strict=True):
            answer = Answer(
                outputs=outputs,
                variant=batch.variant,
                batch_rows=total,
                started_s=started_s,
                compute_s=execution.compute_s,
                service_s=execution.service_s,
                predicted_s=batch.expected_s,
            )
            pending: Pending = request.payload
            if not pending.future.done():
                pending.future.set_result(answer)
        return execution.service_s

    def _go_without(self, lane: Lane, variant: int, requests: Sequence[Request], reason: str) -> None:
        """The endpoint of a variant did not answer: those who wait for it queue again, for another variant."""
        log.info("remote variant failed: %s", reason, extra={"model": lane.key, "rows": len(requests)})
        self._remotes[lane].failed(variant, reason)
        waiting = [request for request in requests if not request.payload.future.done()]
        _fail(lane.scheduler.give_back(waiting, variant), Unavailable(AWAY))

    async def _find_guilty(self, lane: Lane, batch: Dispatch, worker: int, failure: ModelFailed) -> None:
        """The model failed on a batch: run each request alone, so that nobody pays for a neighbour's input."""
        for request in batch.requests:
            if request.payload.future.done():
                continue
            try:
                if len(batch.requests) == 1:
                    raise failure
                await self._execute(lane, batch, [request], worker, self._clock())
            except ModelFailed as refusal:
                log.info("input refused by the model: %s", refusal, extra={"model": lane.key})
                _fail([request], InputRefusedByModel("the model could not process this input"))
            except VariantUnavailable as error:
                self._go_without(lane, batch.variant, [request], str(error))
            except ExecutionError:
                _fail([request], Unavailable(WORKER_LOST))


def _budget_s(lane: Lane, batch: Dispatch, requests: Sequence[Request], now_s: float, patience_s: float) -> float:
    """The time a batch may take: what the backend is told.

    An endpoint that hangs must leave time for the variant that answers instead. A cascade asks its second variant as
    far as all are in time; a request that its first variant is not good enough for waits for the second.
    """
    variant = lane.variants[batch.variant]
    if not variant.elsewhere and variant.cascade is None:
        return patience_s
    scheduler = lane.scheduler
    slack_s = min(request.deadline_s for request in requests) - now_s - scheduler.overhead_s
    if variant.cascade is not None:
        bit = 1 << variant.cascade[0]
        return slack_s if all(request.eligibility.mask & bit for request in requests) else inf
    cheapest = {request.eligibility.variants[0] for request in requests} - {batch.variant}
    reserve_s = max((scheduler.latency.mean_s(v, batch.rows) for v in cheapest), default=0.0)
    return max(
        slack_s - reserve_s * scheduler.latency.quantile_ratio(scheduler.options.plan_quantile), batch.expected_s
    )


def _split(lane: Lane, outputs: Tensors, rows: list[int]) -> Sequence[Tensors]:
    if not lane.family.batchable:
        return [outputs]
    try:
        return split(outputs, rows)
    except BatchError as error:
        raise ModelFailed(str(error)) from error


def _fail(requests: Sequence[Request], error: GearshiftError) -> None:
    for request in requests:
        pending: Pending = request.payload
        if not pending.future.done():
            pending.future.set_exception(error)
