"""Peer: FastAPI and ONNX Runtime with no batching, as it is most often written by hand.

The model runs in the thread pool, so that the loop goes on reading, as is the usual advice. `PLAIN_INLINE=1` runs it on
the loop: a third less CPU a request, but one busy process then starves some of 64 callers (p99 near a second).

Run with `MODEL_PATH=model.onnx python -m uvicorn --app-dir loadtests/peers fastapi_plain:app [--workers 2]`.
"""

import os

import oip
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

app = FastAPI()
session = oip.open_session()
INLINE = os.environ.get("PLAIN_INLINE") == "1"


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    """Say that the model is loaded: the server listens only after it is."""
    return {"ready": True}


@app.post("/v2/models/mlp/infer")
async def infer(request: Request) -> Response:
    """Answer one request with one run of the model."""
    rows = oip.decode(await request.body(), request.headers)
    if INLINE:
        (output,) = session.run(["output"], {"input": rows})
    else:
        (output,) = await run_in_threadpool(session.run, ["output"], {"input": rows})
    body, headers = oip.encode(output, binary=oip.HEADER_LENGTH in request.headers)
    return Response(body, headers=headers)
