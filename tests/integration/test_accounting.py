"""Every answer is its own request's answer, and every request is counted once, on both sides alike."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.integration.harness.crowd import Question, Tally, crowd, scale_questions
from tests.integration.harness.servers import Server, eventually
from tests.integration.harness.wire import Reply, connected, outputs_of, tensor

CONNECTIONS = 64
REQUESTS = {"inprocess": 3000, "ray_colocated": 2500, "ray_split": 1500}
BUDGETS: list[dict[str, Any]] = [
    {},
    {"latency_budget_ms": 2000},
    {"latency_budget_ms": 60},
    {"latency_budget_ms": 15},
    {"latency_budget_ms": 4},
    {"min_accuracy": 0.7},
    {"prefer": "latency"},
    {"prefer": "energy", "min_accuracy": 0.7},
    {"variant": "medium"},
    {"variant": "huge"},
    {"min_accuracy": 0.95},
    {"priority": 3},
]


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


def agrees(server: Server, model: str, before: dict[str, int], tally: Tally) -> object:
    """True when the server's outcomes since `before` are exactly what the client has seen; else both."""
    counted = difference(server.outcomes(model), before)
    seen = tally.statuses
    ok = (
        counted["met"] + counted["late"] == seen[200]
        and counted["expired"] == seen[504]
        and counted["failed"] == seen[503]
        and counted["rejected"] == seen[404] + seen[422] + seen[429]
        and counted["cancelled"] == 0
        and sum(counted.values()) == tally.sent
    )
    return ok or (counted, dict(seen))


async def test_answers_are_not_mixed_up_and_the_books_agree(server: Server) -> None:
    before = server.outcomes("scale")
    tally = await crowd(
        (server.host, server.port),
        [scale_questions(seed, BUDGETS) for seed in range(CONNECTIONS)],
        lambda so_far: so_far.sent < REQUESTS[server.name],
    )
    assert tally.wrong == []
    assert tally.sent >= REQUESTS[server.name]
    assert tally.ended == tally.sent
    assert not tally.broken
    assert tally.statuses.keys() <= {200, 404, 422, 429, 504}
    assert tally.statuses[200] > tally.sent / 4
    assert tally.statuses[404] > 0
    assert tally.statuses[422] > 0
    assert len(tally.variants) == 3, "the budgets are meant to use every variant"
    # A replica's numbers reach the page of another within a moment; after that any page must be exact.
    eventually("the books agree", lambda: agrees(server, "scale", before, tally))
    assert [agrees(server, "scale", before, tally) for _ in range(8)] == [True] * 8

    # The same numbers, told in another way.
    page = server.metrics()
    answered = sum(v for k, v in page.items() if k.startswith("gearshift_selection_total") and 'model="scale"' in k)
    durations = sum(
        v for k, v in page.items()
        if k.startswith("gearshift_request_duration_seconds_count") and 'model="scale"' in k
    )  # fmt: skip
    outcomes = server.outcomes("scale")
    assert answered == outcomes["met"] + outcomes["late"]
    assert durations == sum(outcomes.values())
    async with connected((server.host, server.port)) as connection:
        told = (await connection.call("GET", "/v2/models/scale/stats")).json()
    statistics = told["model_stats"][0]["inference_stats"]
    assert statistics["success"]["count"] == answered
    assert statistics["fail"]["count"] == sum(outcomes.values()) - answered


async def test_requests_that_are_not_understood_have_a_count_of_their_own(inprocess: Server) -> None:
    before, refused = inprocess.outcomes("scale"), inprocess.metric("gearshift_refused_total", status="400")
    async with connected((inprocess.host, inprocess.port)) as connection:
        for _ in range(20):
            assert (await connection.call("POST", "/v2/models/scale/infer", b"{")).status == 400
    assert inprocess.outcomes("scale") == before
    assert inprocess.metric("gearshift_refused_total", status="400") == refused + 20


def lookup_questions(seed: int, guilty_share: float) -> Iterator[Question]:
    """Questions to `lookup`; some ask for an index that is not there, which fails the whole batch."""
    rng = np.random.default_rng(seed)
    while True:
        guilty = bool(rng.random() < guilty_share)
        index = rng.integers(0, 10, (int(rng.integers(1, 4)), 1))
        if guilty:
            index[int(rng.integers(len(index)))] = 10
        yield Question("lookup", {"inputs": [tensor("index", "INT64", index)]}, _lookup_check(index, guilty=guilty))


def _lookup_check(index: np.ndarray, *, guilty: bool) -> Any:
    def check(reply: Reply) -> str:
        if guilty:
            expected = (422, {"error": "the model could not process this input"})
            return "" if (reply.status, reply.json()) == expected else f"guilty, but {reply.status}: {reply.body!r}"
        if reply.status != 200:
            return f"innocent, but {reply.status}: {reply.body!r}"
        right = (index * 10).ravel().tolist()
        return "" if reply.json()["outputs"][0]["data"] == right else f"{reply.body!r} for {index.tolist()}"

    return check


async def test_one_poisoned_request_does_not_spoil_its_batch(server: Server) -> None:
    before = server.outcomes("lookup")
    tally = await crowd(
        (server.host, server.port),
        [lookup_questions(seed, guilty_share=0.1) for seed in range(32)],
        lambda so_far: so_far.sent < 600,
    )
    assert tally.wrong == []
    assert tally.statuses.keys() == {200, 422}

    def books_agree() -> object:
        counted = difference(server.outcomes("lookup"), before)
        answered = counted["met"] + counted["late"] == tally.statuses[200]
        return (answered and counted["failed"] == tally.statuses[422]) or (counted, dict(tally.statuses))

    eventually("the books agree", books_agree)


async def test_innocents_in_a_batch_of_the_guilty(server: Server) -> None:
    """All at once, so that they do share a batch: one guilty request among 31."""
    rng = np.random.default_rng(7)
    guilty = 17
    indices = [rng.integers(0, 10, (2, 1)) for _ in range(32)]
    indices[guilty][1] = -11

    async def ask(index: np.ndarray) -> Reply:
        body = json.dumps({"inputs": [tensor("index", "INT64", index)]}).encode()
        async with connected((server.host, server.port)) as connection:
            return await connection.call("POST", "/v2/models/lookup/infer", body)

    replies = await asyncio.gather(*map(ask, indices))
    for number, (index, reply) in enumerate(zip(indices, replies, strict=True)):
        if number == guilty:
            assert reply.status == 422
        else:
            assert reply.status == 200, reply.body
            assert reply.json()["outputs"][0]["data"] == (index * 10).ravel().tolist()


async def test_requests_of_different_lengths_get_the_answers_they_would_get_alone(server: Server) -> None:
    """Filled up to the bucket of their length, whoever is in the batch with them."""

    async def ask(number: int) -> None:
        async with connected((server.host, server.port)) as connection:
            for turn in range(10):
                length = (number * 7 + turn * 3) % 65
                rows = np.arange(1, 1 + (1 + number % 3) * length).reshape(1 + number % 3, length) + number
                reply = await connection.infer("padded", {"inputs": [tensor("ids", "INT64", rows)]})
                assert reply.status == 200, reply.body
                outputs = outputs_of(reply.json())
                assert outputs["sum"].tolist() == rows.sum(axis=1).tolist()
                assert set(outputs["width"]) == {next(bucket for bucket in (4, 8, 64) if length <= bucket)}

    await asyncio.gather(*(ask(number) for number in range(24)))


@pytest.mark.parametrize("model", ["free", "text"])
async def test_requests_that_cannot_share_a_batch_do_not(server: Server, model: str) -> None:
    """Different widths of a free axis, and texts: at the same time, each its own answer."""

    async def ask(number: int) -> None:
        async with connected((server.host, server.port)) as connection:
            for turn in range(10):
                if model == "free":
                    rows = np.full((1 + number % 3, 1 + (number + turn) % 5), float(number * 10 + turn))
                    given, right = tensor("x", "FP32", rows), (rows * 5).ravel().tolist()
                else:
                    texts = [[f"{number}-{turn}", "x" * (number % 4)]]
                    given = {"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": texts[0]}
                    right = texts[0]
                reply = await connection.infer(model, {"inputs": [given]})
                assert reply.status == 200, reply.body
                assert reply.json()["outputs"][0]["data"] == right

    await asyncio.gather(*(ask(number) for number in range(24)))
