"""Every call of kserve's two inference clients, as they are published: `rest` and `grpc`.

    python kserve_calls.py FLAVOUR TARGET

TARGET is a URL for `rest`, and HOST:PORT for `grpc`.
"""

import asyncio
import sys
from importlib.metadata import version

import numpy as np
from calls import complete, told_why, try_all
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.errors import UnsupportedProtocol
from kserve.inference_client import RESTConfig

FLAVOUR, TARGET = sys.argv[1:3]
REST = FLAVOUR == "rest"
KIND = InferenceRESTClient if REST else InferenceGRPCClient
WHERE = (TARGET,) if REST else ()
"""The REST client is told the server with each call."""


def connect():
    return InferenceRESTClient(RESTConfig(protocol="v2", timeout=60)) if REST else InferenceGRPCClient(TARGET)


async def call_close(client):
    await connect().close()


async def call_is_server_live(client):
    assert await client.is_server_live(*WHERE) is True


async def call_is_server_ready(client):
    assert await client.is_server_ready(*WHERE) is True


async def call_is_model_ready(client):
    assert await client.is_model_ready(*WHERE, model_name="scale") is True
    if REST:
        assert await client.is_model_ready(*WHERE, model_name="nobody") is False


async def call_infer(client):
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    for binary in (True, False):
        tensor = InferInput("x", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows, binary_data=binary)
        request = InferRequest("scale", [tensor], parameters={"prefer": "latency"})
        if REST:
            answer = await client.infer(TARGET, request, model_name="scale")
        else:
            answer = await client.infer(request)
        outputs = {output.name: output.as_numpy() for output in answer.outputs}
        assert np.array_equal(outputs["y"].reshape(2, 4), rows * 3)
        assert outputs["tag"].ravel().tolist() == [3, 3], "the fastest variant answers with 3"


async def call_explain(client):
    await told_why(lambda: client.explain(TARGET, "scale", {}), UnsupportedProtocol)


async def main():
    def once(call):
        async def run():
            async with connect() as client:
                await call(client)

        return run

    calls = complete(KIND, globals())
    await try_all({name: once(call) for name, call in calls.items()}, version("kserve"))


if __name__ == "__main__":
    asyncio.run(main())
