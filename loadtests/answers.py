"""What came back for a request, and which outcome that is."""

from dataclasses import dataclass
from typing import Any

import orjson

from loadtests.workload import Call
from serving.core.outcome import Outcome

HEADER_LENGTH = "inference-header-content-length"
OK, INFEASIBLE, REJECTED, EXPIRED = 200, 422, 429, 504


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as far as a load test cares, or why there is none."""

    status: int
    """HTTP status; 0: no answer came."""
    problem: str = ""
    """What was wrong, in words; empty for an answer that is as it should be."""
    variant: str = ""
    batch_rows: int = 0
    """Rows of the batch it was part of, other callers' included."""
    compute_s: float = 0.0
    """What the model took for that batch."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one intended send."""

    call: Call
    answer: Answer
    latency_s: float
    """From the intended send to the last byte of the answer, or to the failure."""
    lag_s: float
    """How much later than intended its sending began: the sender's own lateness."""


UNSENT = Answer(0, "not sent: every sender was busy until its budget had passed")
CUT = Answer(0, "cut: the run was stopped before the answer came")


def read_answer(status: int, header_length: str | None, body: bytes) -> Answer:
    """The answer as its status and body tell it; `header_length` is the header of binary answers."""
    try:
        document = orjson.loads(body if header_length is None else body[: int(header_length)])
        if status != OK:
            return Answer(status, f"{status}: {document['error']}")
        told: dict[str, Any] = document["parameters"]
        return Answer(status, "", str(told["variant"]), int(told["batch_rows"]), float(told["compute_ms"]) / 1e3)
    except (ValueError, TypeError, KeyError, IndexError):
        # Another server, or a proxy before it: the status is all there is.
        if status == OK:
            return Answer(0, "200, but not the answer of a gateway: it names no variant")
        return Answer(status, str(status))


def outcome_of(answer: Answer, *, in_time: bool) -> Outcome:
    """How the request ended. `in_time`: within its budget, counted from the intended send."""
    match answer.status:
        case 200:
            return Outcome.MET if in_time else Outcome.LATE
        case 422 | 429:
            return Outcome.REJECTED
        case 504:
            return Outcome.EXPIRED
        case _:
            return Outcome.CANCELLED if answer is CUT else Outcome.FAILED
