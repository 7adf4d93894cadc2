"""Between the last byte of a request and its parsing: a place in the turn, and the refusal of what is not worth
reading. Every protocol of a gateway goes through the same one.
"""

import secrets
from itertools import count

from serving.codec.envelope import Parameter
from serving.gateway import Gateway, Result
from serving.lane import Lane
from serving.observer import Observer
from serving.ports import Clock
from serving.turnstile import Turnstile

OFF_LOOP_BYTES = 256 * 1024
"""Tensors above this are parsed and written in a thread: a millisecond of parsing would hold up everybody else."""
MAX_REQUEST_ID = 128
REQUESTS_A_TURN = 32
"""Most requests parsed in one turn of the event loop: a good batch."""


class Door:
    """The way in. One for all protocols of a gateway: they share its event loop."""

    def __init__(self, gateway: Gateway, clock: Clock, observer: Observer | None = None) -> None:
        """`observer`: chooses the requests that are traced or logged; None when none are."""
        self.observer = observer
        self._gateway = gateway
        self._clock = clock
        self._turnstile = Turnstile(REQUESTS_A_TURN, clock)
        self._id_prefix = secrets.token_hex(4)
        self._ids = count(1)

    async def enter(self, lane: Lane, latency_s: float, received_s: float) -> None:
        """Return when the request's turn to be parsed has come.

        Raises `Rejected` in an overload, for one that could no longer be served within its latency budget.
        """
        await self._turnstile.enter(received_s + latency_s)
        if lane.scheduler.refusing(self._clock()):
            self._gateway.turn_away(lane, latency_s, received_s)

    def new_id(self) -> str:
        """An id for a request whose caller has given none."""
        return f"{self._id_prefix}-{next(self._ids):x}"


def is_request_id(text: bytes) -> bool:
    """Whether a caller's own request id may be echoed and logged."""
    return len(text) <= MAX_REQUEST_ID and text.isascii() and text.decode("ascii").isprintable()


def told(result: Result) -> dict[str, Parameter]:
    """What an answer says about itself."""
    parameters: dict[str, Parameter] = {
        "variant": result.variant,
        "batch_rows": result.batch_rows,
        "queue_ms": round(result.queue_s * 1e3, 3),
        "compute_ms": round(result.compute_s * 1e3, 3),
        "predicted_ms": round(result.predicted_s * 1e3, 3),
        "deadline_met": result.deadline_met,
        "reason": result.reason,
    }
    if result.accuracy is not None:
        parameters["accuracy"] = result.accuracy
    if result.escalated is not None:
        parameters["escalated"] = round(result.escalated, 4)
    if result.cached:
        parameters["cached"] = True
    return parameters
