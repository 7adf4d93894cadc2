"""Many clients at once, each with one connection and one request at a time; every request has exactly one end."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.integration.harness.families import SCALE_TAGS
from tests.integration.harness.wire import BROKEN, Connection, Reply, outputs_of, scale_request

Address = tuple[str, int]


@dataclass(slots=True)
class Tally:
    """How the requests of a crowd ended."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    """Requests whose connection ended before their answer, by the kind of error."""
    refused_connections: int = 0
    """Attempts to connect that were refused; no request was sent."""
    variants: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Answers that are not the answer of their own request."""

    @property
    def ended(self) -> int:
        """Requests with an end of any kind."""
        return sum(self.statuses.values()) + sum(self.broken.values())


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and what is right as its answer: the check returns what is wrong, or an empty text."""

    model: str
    document: dict[str, Any]
    check: Callable[[Reply], str]

    @property
    def body(self) -> bytes:
        """The request's JSON."""
        return json.dumps(self.document).encode()


def scale_questions(seed: int, budgets: Sequence[dict[str, Any]]) -> Iterator[Question]:
    """Endless questions to `scale`, each with 1 to 7 rows of its own numbers, the budgets in random order."""
    rng = np.random.default_rng(seed)
    while True:
        # Whole numbers below 2^22: three times each is exact in FP32.
        rows = rng.integers(-(2**21), 2**21, (int(rng.integers(1, 8)), 4)).astype(float)
        budget = budgets[int(rng.integers(len(budgets)))]
        yield Question("scale", scale_request(rows, **budget), _scale_check(rows, budget))


def _scale_check(rows: np.ndarray, budget: dict[str, Any]) -> Callable[[Reply], str]:
    def check(reply: Reply) -> str:
        if reply.status != 200:
            return ""
        answer = reply.json()
        outputs, told = outputs_of(answer), answer["parameters"]
        if not np.array_equal(outputs["y"], rows * 3):
            return f"y is not 3x: {outputs['y'].tolist()} for {rows.tolist()}"
        if not (outputs["tag"] == SCALE_TAGS[told["variant"]]).all():
            return f"told {told['variant']}, tags {outputs['tag'].ravel().tolist()}"
        if told["accuracy"] < budget.get("min_accuracy", 0.0):
            return f"accuracy {told['accuracy']} under {budget}"
        if "variant" in budget and told["variant"] != budget["variant"]:
            return f"{told['variant']} under {budget}"
        return ""

    return check


async def crowd(
    address: Address,
    questions: Sequence[Iterator[Question]],
    go_on: Callable[[Tally], bool],
    *,
    keep_alive: bool = True,
) -> Tally:
    """One client for each iterator, until `go_on` says no; it is asked before every request.

    A client whose connection ends opens another; one that cannot connect stops.
    """
    tally = Tally()
    await asyncio.gather(*(_client(address, own, go_on, tally, keep_alive=keep_alive) for own in questions))
    return tally


async def _client(
    address: Address,
    questions: Iterator[Question],
    go_on: Callable[[Tally], bool],
    tally: Tally,
    *,
    keep_alive: bool,
) -> None:
    connection: Connection | None = None
    try:
        while go_on(tally):
            if connection is None:
                try:
                    connection = await Connection.open(address)
                except ConnectionError:
                    tally.refused_connections += 1
                    return
            if not await _ask(connection, next(questions), tally) or not keep_alive:
                await connection.close()
                connection = None
    finally:
        if connection is not None:
            await connection.close()


async def _ask(connection: Connection, question: Question, tally: Tally) -> bool:
    """One request; returns whether the connection is good for another."""
    tally.sent += 1
    try:
        reply = await connection.call("POST", f"/v2/models/{question.model}/infer", question.body)
    except BROKEN as error:
        tally.broken[type(error).__name__] += 1
        return False
    tally.statuses[reply.status] += 1
    if reply.status == 200:
        tally.variants[reply.json()["parameters"]["variant"]] += 1
    wrong = question.check(reply)
    if wrong:
        tally.wrong.append(wrong)
    return reply.headers.get("connection") != "close"
