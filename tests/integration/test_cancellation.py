"""Clients that hang up: their work leaves the queue, and each is counted."""

import asyncio
import json

import numpy as np

from tests.integration.harness.servers import Server, eventually
from tests.integration.harness.wire import Connection, connected, request_bytes, tensor

CLIENTS = 500


async def hang_up(address: tuple[str, int], number: int) -> None:
    """Send a whole request for something slow, wait for nothing, and go."""
    connection = await Connection.open(address)
    body = json.dumps({"inputs": [tensor("x", "FP32", np.full((1, 1), float(number)))]}).encode()
    await connection.send(request_bytes("POST", "/v2/models/slow/infer", body))
    # Some go while their request is being read, some while it waits, some while it runs.
    await asyncio.sleep(0.002 * (number % 100))
    if number % 2:
        connection.abort()
    else:
        await connection.close()


async def test_clients_that_hang_up_leave_nothing_behind(server: Server) -> None:
    address = server.host, server.port
    before = server.outcomes("slow")
    for first in range(0, CLIENTS, 100):
        await asyncio.gather(*(hang_up(address, number) for number in range(first, first + 100)))

    def settled() -> object:
        queue = server.metric("gearshift_queue_rows", model="slow")
        held = server.metric("gearshift_queue_bytes", model="slow")
        busy = server.metric("gearshift_workers_busy")
        return (queue, held, busy) == (0, 0, 0) or f"{queue:g} rows, {held:g} bytes, {busy:g} busy"

    # Far less than the half minute that answering all of them would take.
    eventually("the queue is empty and the workers are idle", settled, within_s=10)
    counted = {name: count - before[name] for name, count in server.outcomes("slow").items()}
    # A connection that goes before its request was read has sent none; all others have one outcome.
    assert sum(counted.values()) <= CLIENTS
    assert counted["cancelled"] > CLIENTS / 2
    assert counted["failed"] == counted["expired"] == counted["rejected"] == 0

    async with connected(address) as connection:
        reply = await connection.infer("slow", {"inputs": [tensor("x", "FP32", np.full((1, 1), 5.0))]})
        assert (reply.status, reply.json()["outputs"][0]["data"]) == (200, [6.0])


async def test_a_neighbour_is_not_cancelled_with_the_one_who_left(server: Server) -> None:
    """Requests that share the moment, and perhaps the batch, with one whose client hangs up are answered."""
    address = server.host, server.port

    async def stays(number: int) -> None:
        async with connected(address) as connection:
            for turn in range(10):
                rows = np.full((1, 4), float(number * 100 + turn))
                reply = await connection.infer("scale", {"inputs": [tensor("x", "FP32", rows)]})
                assert reply.status == 200, reply.body
                assert reply.json()["outputs"][0]["data"] == [(number * 100 + turn) * 3.0] * 4

    async def leaves() -> None:
        body = json.dumps({"inputs": [tensor("x", "FP32", np.ones((1, 4)))]}).encode()
        for turn in range(20):
            connection = await Connection.open(address)
            await connection.send(request_bytes("POST", "/v2/models/scale/infer", body))
            await asyncio.sleep(0.001 * (turn % 5))
            connection.abort()

    await asyncio.gather(*(stays(number) for number in range(8)), *(leaves() for _ in range(8)))
