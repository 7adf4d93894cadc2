"""Peer: FastAPI and ONNX Runtime behind a hand-written asyncio micro-batcher.

Requests wait at most `MICROBATCH_WAIT_MS` (default 1 ms) for company, up to 32 to a batch; batches run in a
thread, one at a time, while the loop goes on reading.

Run with `MODEL_PATH=model.onnx python -m uvicorn --app-dir loadtests/peers fastapi_microbatch:app`
(`--workers 2` for two processes, each with its own queue).
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import oip
import onnxruntime as ort
from fastapi import FastAPI, Request, Response

MAX_BATCH = 32
WAIT_S = float(os.environ.get("MICROBATCH_WAIT_MS", "1")) / 1000


class Item(NamedTuple):
    """One request in the queue."""

    rows: np.ndarray
    future: asyncio.Future
    wait_until: float


class MicroBatcher:
    """Collects requests into batches and runs them in one thread."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        self._executor = ThreadPoolExecutor(max_workers=1)

    async def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the output for `rows` once the batch they joined has run."""
        loop = asyncio.get_running_loop()
        item = Item(rows, loop.create_future(), loop.time() + WAIT_S)
        self._queue.put_nowait(item)
        return await item.future

    async def run_forever(self) -> None:
        """Collect a batch, run it, hand out the answers, and again."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._collect()
            stacked = np.concatenate([item.rows for item in batch])
            try:
                (output,) = await loop.run_in_executor(
                    self._executor, self._session.run, ["output"], {"input": stacked}
                )
            except Exception as error:  # noqa: BLE001 - whatever it was, its callers must hear of it
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(error)
                continue
            start = 0
            for item in batch:
                if not item.future.done():
                    item.future.set_result(output[start : start + len(item.rows)])
                start += len(item.rows)

    async def _collect(self) -> list[Item]:
        batch = [await self._queue.get()]
        with contextlib.suppress(TimeoutError):
            # Counted from the arrival: who waited behind the last batch waits no more.
            async with asyncio.timeout_at(batch[0].wait_until):
                while len(batch) < MAX_BATCH:
                    batch.append(await self._queue.get())
        return batch


session = oip.open_session()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the batcher as long as the application."""
    app.state.batcher = MicroBatcher(session)
    task = asyncio.create_task(app.state.batcher.run_forever())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    """Say that the model is loaded: the server listens only after it is."""
    return {"ready": True}


@app.post("/v2/models/mlp/infer")
async def infer(request: Request) -> Response:
    """Answer one request with its rows of a shared batch."""
    rows = oip.decode(await request.body(), request.headers)
    output = await request.app.state.batcher.predict(rows)
    body, headers = oip.encode(output, binary=oip.HEADER_LENGTH in request.headers)
    return Response(body, headers=headers)
