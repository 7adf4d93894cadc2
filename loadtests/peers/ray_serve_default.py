"""Peer: Ray Serve as its own guide shows it: FastAPI ingress -> handle -> `@serve.batch` deployment.

Ray Serve itself runs with its defaults (its Python proxy, its flags). The two deployments are set as its guide to
batching advises: a batch of 32 within 1 ms, like the hand-written peer, and enough ongoing requests to fill it.

Run with `MODEL_PATH=model.onnx python loadtests/peers/ray_serve_default.py --port 8000`; SIGTERM stops it.
"""

import argparse
import os
import signal
import threading

import numpy as np
import oip
import ray
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

api = FastAPI()
MAX_ONGOING = 128


@serve.deployment(max_ongoing_requests=MAX_ONGOING)
class Model:
    """Holds the session; calls that arrive together run together."""

    def __init__(self) -> None:
        self._session = oip.open_session()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def __call__(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        """Return one output for each of `requests`, from one run over all their rows."""
        (output,) = self._session.run(["output"], {"input": np.concatenate(requests)})
        return np.split(output, np.cumsum([len(rows) for rows in requests])[:-1])


@serve.deployment(max_ongoing_requests=MAX_ONGOING)
@serve.ingress(api)
class Ingress:
    """Parses, asks the model, renders."""

    def __init__(self, model: DeploymentHandle) -> None:
        self._model = model

    @api.get("/v2/health/ready")
    async def ready(self) -> dict[str, bool]:
        """Say that the deployment answers."""
        return {"ready": True}

    @api.post("/v2/models/mlp/infer")
    async def infer(self, request: Request) -> Response:
        """Answer one request through the batching deployment."""
        rows = oip.decode(await request.body(), request.headers)
        output = await self._model.remote(rows)
        body, headers = oip.encode(output, binary=oip.HEADER_LENGTH in request.headers)
        return Response(body, headers=headers)


def main() -> None:
    """Start a local Ray with Serve on it, and serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000, help="loopback port to listen on")
    options = parser.parse_args()
    # A replica asks for one CPU, and there are two of them: say so also where there is only one core.
    # "local": a cluster that already runs on this machine is none of ours.
    ray.init("local", num_cpus=max(2, os.cpu_count() or 1), log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(Ingress.bind(Model.bind()))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
