"""Requests that are watched one by one: traced, or told in a line of the log, or both. Most are neither."""

import logging
import random
from collections.abc import Callable

from serving.gateway import Result
from serving.lane import Lane
from serving.ports import Clock
from serving.tracing import Trace, Tracer, trace_id_of

log = logging.getLogger("gearshift.request")


class Watched:
    """One inference request, from the receipt of its last byte to its answer."""

    __slots__ = ("_clock", "_lane", "_logged", "_received_s", "_told", "trace", "trace_id")

    def __init__(
        self, lane: Lane, received_s: float, trace: Trace | None, trace_id: str, clock: Clock, *, logged: bool
    ) -> None:
        self.trace = trace
        self.trace_id = trace_id
        """Of its own trace, or of its caller's when it has none; empty without either."""
        self._lane = lane
        self._received_s = received_s
        self._clock = clock
        self._logged = logged
        self._told: dict[str, str | bool | int | float] = {}

    def stage(self, name: str, started_s: float) -> None:
        """What it was busy with until now: told as a number, since a span costs more than most of these take."""
        self._told[f"{name}_ms"] = round((self._clock() - started_s) * 1e3, 3)

    def end(self, request_id: str, status: int | str, result: Result | None = None, error: str = "") -> None:
        """It was answered with `result`, or refused with `error`; `status` in the words of its protocol."""
        ended_s = self._clock()
        told = self._told | {"request_id": request_id, "status": status}
        if result is not None:
            told |= {
                "variant": result.variant,
                "reason": result.reason,
                "batch_rows": result.batch_rows,
                "predicted_ms": round(result.predicted_s * 1e3, 3),
                "deadline_met": result.deadline_met,
            }
        if self.trace is not None:
            self.trace.note({f"gearshift.{name}": value for name, value in told.items()})
            self.trace.finish(ended_s, error)
        if self._logged:
            told |= {"model": self._lane.key, "duration_ms": round((ended_s - self._received_s) * 1e3, 3)}
            if result is not None:
                told |= {"queue_ms": round(result.queue_s * 1e3, 3), "compute_ms": round(result.compute_s * 1e3, 3)}
            if self.trace_id:
                told["trace_id"] = self.trace_id
            log.info(error or "answered", extra=told)


class Observer:
    """Chooses the requests that are watched, before anything is spent on watching."""

    def __init__(
        self,
        clock: Clock,
        tracer: Tracer | None = None,
        request_share: float = 0.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`request_share` of the requests are logged; `chance` draws from [0, 1)."""
        self.tracer = tracer
        self._clock = clock
        self._share = request_share
        self._chance = chance

    def begin(self, lane: Lane, received_s: float, traceparent: str | None = None) -> Watched | None:
        """A request whose last byte came at `received_s`; None when it is not one of those watched.

        `traceparent`: the caller's header or metadata of that name (W3C Trace Context).
        """
        trace = None if self.tracer is None else self.tracer.begin(lane.key, received_s, traceparent)
        logged = self._share > 0.0 and self._chance() < self._share
        if trace is None and not logged:
            return None
        trace_id = trace_id_of(traceparent) if trace is None else trace.trace_id
        return Watched(lane, received_s, trace, trace_id, self._clock, logged=logged)
