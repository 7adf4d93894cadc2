"""kserve's InferenceRESTClient, as it is published, against a Gearshift server. Runs in an environment of its own."""

import asyncio

import httpx
import numpy as np
from checks import run_all
from kserve import InferenceRESTClient
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput


def connect():
    return InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))


async def check_health(url):
    async with connect() as client:
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        assert await client.is_model_ready(url, "fashion") is True
        assert await client.is_model_ready(url, "nobody") is False


async def check_infer_json(url):
    await infer(url, binary=False)


async def check_infer_binary(url):
    await infer(url, binary=True)


async def infer(url, *, binary):
    image = InferInput("image", [3, 28, 28], "UINT8")
    image.set_data_from_numpy(np.random.default_rng(1).integers(0, 255, (3, 28, 28), np.uint8), binary_data=binary)
    wanted = [RequestedOutput("probabilities", parameters={"binary_data": binary})]
    request = InferRequest("fashion", [image], request_outputs=wanted, parameters={"prefer": "latency"})
    async with connect() as client:
        answer = await client.infer(url, request, model_name="fashion")
    scores = answer.outputs[0].as_numpy()
    assert answer.model_name == "fashion"
    assert scores.shape == (3, 10)
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-3)
    assert answer.parameters["reason"] == "prefer_latency", answer.parameters


async def check_error_is_raised_with_our_words(url):
    image = InferInput("image", [1, 28, 27], "UINT8")
    image.set_data_from_numpy(np.zeros((1, 28, 27), np.uint8), binary_data=False)
    error = None
    async with connect() as client:
        try:
            await client.infer(url, InferRequest("fashion", [image]), model_name="fashion")
        except httpx.HTTPStatusError as raised:
            error = raised
    assert error is not None, "the call went through"
    assert error.response.status_code == 400
    assert "[1,28,27]" in error.response.json()["error"], error.response.text


if __name__ == "__main__":
    run_all(dict(globals()), asyncio.run)
