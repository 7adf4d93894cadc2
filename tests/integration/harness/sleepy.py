"""A family whose accurate variants take their time without any processor: endpoints that sleep.

So a test can need several replicas' worth of workers on one small machine.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from models.manifest import Budget, Family, Remote, Variant
from models.repository import publish
from models.session import Session
from tests.integration.harness.families import weighty_model
from tests.integration.harness.wire import BROKEN, Connection
from tests.support.oip_server import Endpoint, running

SLEEP_S = {"large": 0.060, "medium": 0.024, "small": 0.008}
"""Seconds a row."""
ACCURACY = {"large": 0.9, "medium": 0.8, "small": 0.6, "file": 0.1}
"""A family needs a variant that is a file. It is so much worse that even at ten times the rate nobody wants it."""
LATENCY_MS = 2_000.0
"""Far more than any of them takes: it is the load that should rule variants out, not a stall of the machine."""
CONNECTIONS = 24


@contextmanager
def sleepy_endpoint() -> Iterator[Endpoint]:
    """An endpoint with the models that sleep: x FP32 [-1,2] -> y = 2x."""

    def answer(path: str, _headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        name = path.split("/")[3]
        given = json.loads(body)["inputs"][0]
        values = [float(value) for value in _flat(given["data"])]
        time.sleep(SLEEP_S[name] * given["shape"][0])
        output = {"name": "y", "datatype": "FP32", "shape": given["shape"], "data": [2 * value for value in values]}
        return 200, {"Content-Type": "application/json"}, json.dumps({"outputs": [output]}).encode()

    tensors = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    with running(Endpoint(metadata={"name": "sleepy", **tensors}, answer=answer)) as endpoint:
        yield endpoint


def publish_sleepy(root: Path, url: str) -> None:
    """Write the family `sleepy` into `root`: three remote variants at `url`, and a file."""
    content = weighty_model()
    graph = Session(content)
    file = Variant(
        name="file",
        accuracy=ACCURACY["file"],
        file="file.onnx",
        sha256=sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    remote = [
        Variant(name=name, accuracy=ACCURACY[name], remote=Remote(url=url, model=name, timeout_ms=5_000.0))
        for name in SLEEP_S
    ]
    family = Family(
        name="sleepy",
        inputs=graph.inputs,
        outputs=graph.outputs,
        default_budget=Budget(latency_ms=LATENCY_MS),
        max_batch_rows=4,
        variants=(file, *remote),
    )
    publish(root, family, {"file.onnx": content})


@dataclass(frozen=True, slots=True)
class Told:
    """How one request ended."""

    at_s: float
    """When it was sent, seconds since the metronome began."""
    end: str
    """The variant that answered, `status NNN`, or the kind of error that ended its connection."""
    late: bool = False


class Metronome:
    """Clients that each hold one connection and together send at a steady rate, open loop."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._free: deque[Connection] = deque()
        self._began_s = time.monotonic()
        self.told: list[Told] = []
        self._busy = 0
        self.reconnected = 0
        """Answers that asked for another connection."""

    @property
    def now_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began_s

    async def play(self, rate: float, seconds: float) -> list[Told]:
        """Send for so long, wait for the answers, and tell how these requests ended."""
        first, begin_s = len(self.told), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for beat in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, begin_s + beat / rate - time.monotonic()))
                group.create_task(self._ask())
        return self.told[first:]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the connections."""
        for connection in self._free:
            await connection.close()

    async def _ask(self) -> None:
        at_s = self.now_s
        # Each in turn, as of many clients; one that the server has closed meanwhile is not used again.
        while self._free and self._free[0].ended:
            await self._free.popleft().close()
        some = len(self._free) >= CONNECTIONS - self._busy
        connection = self._free.popleft() if some and self._free else await Connection.open(self._address)
        self._busy += 1
        document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
        try:
            reply = await connection.infer("sleepy", document)
        except BROKEN as error:
            self.told.append(Told(at_s, type(error).__name__))
            return
        finally:
            self._busy -= 1
        if reply.headers.get("connection", "").lower() == "close":
            self.reconnected += 1
            await connection.close()
        else:
            self._free.append(connection)
        if reply.status != 200:
            self.told.append(Told(at_s, f"status {reply.status}"))
            return
        parameters = reply.json()["parameters"]
        self.told.append(Told(at_s, parameters["variant"], late=not parameters["deadline_met"]))


def accuracy(told: list[Told]) -> float:
    """Effective accuracy: what was not answered in time counts 0."""
    return sum(0.0 if one.late else ACCURACY.get(one.end, 0.0) for one in told) / len(told)


def _flat(data: list[object]) -> Iterator[object]:
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item
