"""Every call of one of tritonclient's four clients, as they are published: `http`, `http.aio`, `grpc`, `grpc.aio`.

    python triton_calls.py FLAVOUR HOST:PORT

The server serves the families of `tests.integration.harness.families`, in explicit control mode, `lookup` not loaded.
"""

import asyncio
import contextlib
import importlib
import queue
import sys
import urllib.request
from importlib.metadata import version

import numpy as np
from calls import Refused, answered, complete, told_why, try_all
from tritonclient.utils import InferenceServerException

FLAVOUR, TARGET = sys.argv[1:3]
HTTP = FLAVOUR.startswith("http")
triton = importlib.import_module(f"tritonclient.{FLAVOUR}")
# The asynchronous packages bring their client only; tensors are those of the synchronous ones.
tensors = importlib.import_module(f"tritonclient.{FLAVOUR.removesuffix('.aio')}")
plugins = importlib.import_module("tritonclient._plugin")

ROWS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
TRACE_KEYS = {"trace_level", "trace_rate", "trace_count", "log_frequency"}
JSON = {} if HTTP else {"as_json": True}
"""Where a method's answer is a message, ask for its JSON."""


@contextlib.asynccontextmanager
async def connected():
    client = triton.InferenceServerClient(TARGET)
    try:
        yield client
    finally:
        await answered(client.close())


def scale_input(rows=ROWS):
    tensor = tensors.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def is_tripled(answer, rows=ROWS):
    assert np.array_equal(answer.as_numpy("y"), rows * 3)


async def refused(call, *texts):
    await told_why(call, InferenceServerException, *texts)


async def call_close(client):
    await answered(triton.InferenceServerClient(TARGET).close())


async def call_is_server_live(client):
    assert await answered(client.is_server_live()) is True


async def call_is_server_ready(client):
    assert await answered(client.is_server_ready()) is True


async def call_is_model_ready(client):
    assert await answered(client.is_model_ready("scale")) is True
    assert await answered(client.is_model_ready("free", "1")) is True
    assert await answered(client.is_model_ready("nobody")) is False
    assert await answered(client.is_model_ready("free", "9")) is False


async def call_get_server_metadata(client):
    told = await answered(client.get_server_metadata(**JSON))
    assert told["name"] == "gearshift"
    assert {"statistics", "model_repository", "classification", "binary_tensor_data"} <= set(told["extensions"])


async def call_get_model_metadata(client):
    told = await answered(client.get_model_metadata("scale", **JSON))
    (tensor,) = told["inputs"]
    assert (tensor["name"], tensor["datatype"], [int(dim) for dim in tensor["shape"]]) == ("x", "FP32", [-1, 4])
    assert [output["name"] for output in told["outputs"]] == ["y", "tag"]
    assert (await answered(client.get_model_metadata("free", **JSON)))["versions"] == ["1", "2"]


async def call_get_model_config(client):
    told = await answered(client.get_model_config("scale", **JSON))
    config = told if HTTP else told["config"]
    assert config["max_batch_size"] == 256
    assert config["input"][0]["name"] == "x"
    assert [int(dim) for dim in config["input"][0]["dims"]] == [4]


async def call_get_inference_statistics(client):
    await answered(client.infer("scale", scale_input()))
    (told,) = (await answered(client.get_inference_statistics("scale", **JSON)))["model_stats"]
    assert (told["name"], told["version"]) == ("scale", "1")
    assert int(told["inference_count"]) >= 2
    assert int(told["execution_count"]) >= 1
    assert int(told["last_inference"]) > 1_600_000_000_000
    assert int(told["inference_stats"]["success"]["count"]) >= 1
    assert int(told["inference_stats"]["compute_infer"]["ns"]) > 0
    sizes = {int(batch["batch_size"]): batch for batch in told["batch_stats"]}
    assert int(sizes[2]["compute_infer"]["count"]) >= 1
    everything = await answered(client.get_inference_statistics(**JSON))
    assert {("free", "1"), ("free", "2")} <= {(entry["name"], entry["version"]) for entry in everything["model_stats"]}


async def index_of(client):
    told = await answered(client.get_model_repository_index(**JSON))
    entries = told if HTTP else told["models"]
    return {(entry["name"], entry.get("version", "")): entry.get("state", "") for entry in entries}


async def call_get_model_repository_index(client):
    index = await index_of(client)
    assert index["scale", "1"] == "READY"
    assert any(name == "lookup" for name, _ in index)


async def call_load_model(client):
    await answered(client.load_model("lookup"))
    assert await answered(client.is_model_ready("lookup")) is True
    assert (await index_of(client))["lookup", "1"] == "READY"


async def call_unload_model(client):
    await answered(client.load_model("lookup"))
    await answered(client.unload_model("lookup"))
    assert await answered(client.is_model_ready("lookup")) is False


async def call_infer(client):
    is_tripled(await answered(client.infer("scale", scale_input())))
    wanted = [tensors.InferRequestedOutput("y", class_count=2)]
    best = await answered(client.infer("scale", scale_input(), outputs=wanted, request_id="mine", model_version="1"))
    assert [text.decode().split(":") for text in best.as_numpy("y")[0]] == [["12.0", "3"], ["9.0", "2"]]
    texts = tensors.InferInput("text", [1, 2], "BYTES")
    texts.set_data_from_numpy(np.array([["zwei", "€"]], object))
    same = (await answered(client.infer("text", [texts]))).as_numpy("same")
    assert [text.decode() for text in same[0]] == ["zwei", "€"]
    await one_is_refused(client)


async def one_is_refused(client):
    with contextlib.suppress(Refused):
        await refused(lambda: client.infer("nobody", scale_input()), "Request for unknown model: 'nobody' is not found")


async def call_async_infer(client):
    sent = [ROWS * number for number in range(16)]
    if HTTP:
        calls = [client.async_infer("scale", scale_input(rows)) for rows in sent]
        for rows, call in zip(sent, calls, strict=True):
            is_tripled(call.get_result(timeout=60), rows)
        return
    done = queue.SimpleQueue()
    for number, rows in enumerate(sent):
        client.async_infer(
            "scale", scale_input(rows), callback=lambda result, error: done.put((result, error)), request_id=str(number)
        )
    for _ in sent:
        result, error = done.get(timeout=60)
        assert error is None, error
        is_tripled(result, sent[int(result.get_response().id)])


async def call_start_stream(client):
    await stream(client, count=1)


async def call_stop_stream(client):
    await stream(client, count=1)
    await stream(client, count=1)  # a stopped stream leaves the client fit for another


async def call_async_stream_infer(client):
    await stream(client, count=16)


async def stream(client, count):
    """Answers come in the order of the requests, and an error does not end the stream."""
    done = queue.SimpleQueue()
    client.start_stream(callback=lambda result, error: done.put((result, error)))
    for number in range(count):
        client.async_stream_infer("scale", scale_input(ROWS * number), request_id=str(number))
    client.async_stream_infer("nobody", scale_input())
    client.async_stream_infer("scale", scale_input(), request_id="last")
    for number in range(count):
        result, error = done.get(timeout=60)
        assert error is None, error
        assert result.get_response().id == str(number)
        is_tripled(result, ROWS * number)
    _, error = done.get(timeout=60)
    assert "Request for unknown model: 'nobody' is not found" in str(error)
    result, error = done.get(timeout=60)
    assert error is None, error
    assert result.get_response().id == "last"
    client.stop_stream()


async def call_stream_infer(client):
    async def requests():
        for number in range(16):
            yield {"model_name": "scale", "inputs": scale_input(ROWS * number), "request_id": str(number)}

    expected = 0
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        assert result.get_response().id == str(expected)
        is_tripled(result, ROWS * expected)
        expected += 1
    assert expected == 16


async def call_generate_request_body(client):
    by_hand(triton.InferenceServerClient)


async def call_parse_response_body(client):
    by_hand(triton.InferenceServerClient)


def by_hand(kind):
    """The body made and read by the client, sent by somebody else."""
    body, json_length = kind.generate_request_body(scale_input())
    request = urllib.request.Request(
        f"http://{TARGET}/v2/models/scale/infer", body, {"Inference-Header-Content-Length": str(json_length)}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        length = int(response.headers["Inference-Header-Content-Length"])
        is_tripled(kind.parse_response_body(response.read(), header_length=length))


async def call_get_trace_settings(client):
    for model in (None, "scale"):
        told = await answered(client.get_trace_settings(model, **JSON))
        assert set(told if HTTP else told["settings"]) >= TRACE_KEYS


async def call_update_trace_settings(client):
    await refused(lambda: client.update_trace_settings(settings={"trace_rate": "5"}), "when the server starts")


async def log_settings(client):
    told = await answered(client.get_log_settings(**JSON))
    return told if HTTP else {name: next(iter(value.values())) for name, value in told["settings"].items()}


async def call_get_log_settings(client):
    told = await log_settings(client)
    assert (told["log_error"], told["log_format"]) == (True, "default")


async def call_update_log_settings(client):
    await answered(client.update_log_settings({"log_verbose_level": 1}))
    assert (await log_settings(client))["log_verbose_level"] == 1
    await answered(client.update_log_settings({"log_verbose_level": 0}))
    assert (await log_settings(client))["log_verbose_level"] == 0


def regions(told):
    return told if HTTP else list(told.get("regions", []))


async def call_get_system_shared_memory_status(client):
    assert regions(await answered(client.get_system_shared_memory_status(**JSON))) == []


async def call_register_system_shared_memory(client):
    await refused(lambda: client.register_system_shared_memory("r", "/r", 64), "shared memory is not offered")


async def call_unregister_system_shared_memory(client):
    await answered(client.unregister_system_shared_memory())
    await answered(client.unregister_system_shared_memory("r"))


async def call_get_cuda_shared_memory_status(client):
    assert regions(await answered(client.get_cuda_shared_memory_status(**JSON))) == []


async def call_register_cuda_shared_memory(client):
    handle = b"AAAA"
    await refused(lambda: client.register_cuda_shared_memory("r", handle, 0, 64), "shared memory is not offered")


async def call_unregister_cuda_shared_memory(client):
    await answered(client.unregister_cuda_shared_memory())
    await answered(client.unregister_cuda_shared_memory("r"))


class _AddsHeader(plugins.InferenceServerClientPlugin):
    """Pins a variant by header, so that the answer tells whether the plugin was asked."""

    def __call__(self, request):
        request.headers["variant"] = "quick"


async def plugged(client):
    plugin = _AddsHeader()
    client.register_plugin(plugin)
    assert client.plugin() is plugin
    answer = await answered(client.infer("scale", scale_input(), headers={}))
    assert answer.as_numpy("tag").tolist() == [[3], [3]], "the variant called quick answers with 3"
    client.unregister_plugin()


call_plugin = call_register_plugin = call_unregister_plugin = plugged


async def main():
    calls = complete(triton.InferenceServerClient, globals())

    def once(call):
        async def run():
            async with connected() as client:
                await call(client)

        return run

    await try_all({name: once(call) for name, call in calls.items()}, version("tritonclient"))


if __name__ == "__main__":
    asyncio.run(main())
