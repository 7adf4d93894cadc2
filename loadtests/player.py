"""One process's part of a live run: bodies ready, the open loop turning, locust told of each request."""

from collections.abc import Iterator
from itertools import cycle
from time import monotonic
from typing import Any, Protocol

import gevent

from loadtests.answers import CUT, Answer, Attempt, read_answer
from loadtests.client import Wire, WireError
from loadtests.openloop import OpenLoop
from loadtests.payloads import bodies
from loadtests.samples import Samples
from loadtests.scenario import Scenario
from loadtests.target import Metadata, served_as_told
from loadtests.workload import Call
from serving.core.outcome import Outcome

GONE_AFTER = 5
"""So many requests in a row without any answer,"""
GONE_AFTER_S = 2.0
"""over at least so long, and the host is taken for gone: what follows would measure nothing."""


class Part(Protocol):
    """What a player is to play."""

    scenario: Scenario
    seed: int
    models: dict[str, dict[str, Any]]
    kinds: frozenset[str]

    def calls(self) -> Iterator[Call]:
        """The requests, in the order of their times."""


class RequestEvent(Protocol):
    """Locust's event for the statistics of requests."""

    def fire(self, **facts: Any) -> None:
        """Tell all listeners."""


class Clock:
    """Real time, in which other greenlets run."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        return monotonic()

    def sleep(self, seconds: float) -> None:
        """Let others run for that long."""
        gevent.sleep(seconds)


class Watch:
    """Notices that a host has gone for good."""

    def __init__(self) -> None:
        self._since_s = 0.0
        self._in_a_row = 0

    def gone(self, *, answered: bool, now_s: float) -> bool:
        """Whether the host is taken for gone after this request."""
        if answered:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row == 1:
            self._since_s = now_s
        return self._in_a_row >= GONE_AFTER and now_s - self._since_s >= GONE_AFTER_S


class Player:
    """Plays one part, once."""

    def __init__(
        self, part: Part, host: str, samples: Samples, event: RequestEvent, connections: int, timeout_s: float
    ) -> None:
        """Raises `ScenarioError` for a payload that cannot be sent, `WireError` for an address that is none."""
        self._part = part
        self._host = host
        self._samples = samples
        self._event = event
        self._wire = Wire(host, connections, timeout_s)
        self._kinds = {entry.name: number for number, entry in enumerate(part.scenario.classes)}
        self._variants = {name: _variant_names(told) for name, told in part.models.items()}
        self._requests = dict(self._prepare())
        self._watch = Watch()
        self._gone = ""
        self._loop = OpenLoop(self._send, self._note, Clock(), connections)

    def play(self, start_s: float) -> str:
        """Send everything, and wait for the answers; returns why it ended early, or an empty text."""
        try:
            self._loop.run(self._part.calls(), start_s)
        finally:
            self._wire.close()
        return self._gone

    def _prepare(self) -> Iterator[tuple[tuple[str, int], Iterator[bytes]]]:
        """Whole requests of each class and size, each with its different bodies in turn."""
        for entry in self._part.scenario.classes:
            path = f"/v2/models/{entry.model}/infer"
            for share in entry.rows if entry.name in self._part.kinds else ():
                written = [
                    self._wire.request("POST", path, headers, body)
                    for body, headers in bodies(entry, share.rows, self._part.models[entry.model], self._part.seed)
                ]
                yield (entry.name, share.rows), cycle(written)

    def _send(self, call: Call) -> Answer:
        try:
            reply = self._wire.exchange(next(self._requests[call.kind, call.rows]))
        except WireError as error:
            return Answer(0, str(error))
        except gevent.GreenletExit:
            return CUT
        return read_answer(reply.status, reply.header_length, reply.body)

    def _note(self, attempt: Attempt) -> None:
        call, answer = attempt.call, attempt.answer
        outcome = self._samples.add(attempt, self._kinds[call.kind], self._variants[call.model])
        self._event.fire(
            request_type="POST",
            name=call.kind,
            response_time=attempt.latency_s * 1e3,
            response_length=0,
            # Whatever is not answered in time is a failure of the service, and so it is counted.
            exception=None if outcome is Outcome.MET else _Missed(_told(outcome, answer)),
            context={"model": call.model, "variant": answer.variant, "outcome": str(outcome)},
            url=self._host,
        )
        if answer is CUT or self._gone:
            return
        now_s = monotonic()
        if self._watch.gone(answered=answer.status != 0, now_s=now_s):
            self._gone = (
                f"{self._host} stopped answering about {call.at_s:.1f} s into the run ({answer.problem}); "
                f"what was measured until then is kept"
            )
            self._loop.stop()


class _Missed(Exception):
    """How locust is told of a request that was not met."""


def _told(outcome: Outcome, answer: Answer) -> str:
    """One text an outcome, so that locust adds them up; failures with their reasons."""
    if outcome is Outcome.FAILED:
        return answer.problem
    return f"{outcome} ({answer.status})" if answer.status else str(outcome)


def _variant_names(told: Metadata) -> list[str]:
    return [view.name for view in served_as_told(told).variants]
