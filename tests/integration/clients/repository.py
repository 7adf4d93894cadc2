"""tritonclient.http's calls about the repository, against a Gearshift under explicit control with nothing loaded.

The repository holds `step` 1: x FP32 [-1,4] -> y = x. The checks run in this order.
"""

import numpy as np
import tritonclient.http as triton
from checks import run_all
from refusal import refused


def connect(url):
    return triton.InferenceServerClient(url.removeprefix("http://"))


def infer(client):
    rows = np.ones((2, 4), np.float32)
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    return client.infer("step", [tensor]).as_numpy("y")


def check_1_nothing_is_loaded(url):
    with connect(url) as client:
        assert client.is_server_ready()
        assert client.get_model_repository_index() == [{"name": "step"}]
        assert not client.is_model_ready("step")
        refused(lambda: infer(client), "Request for unknown model: 'step' is not found")


def check_2_load(url):
    with connect(url) as client:
        client.load_model("step")
        assert client.is_model_ready("step")
        assert np.array_equal(infer(client), np.ones((2, 4), np.float32))
        told = client.get_model_repository_index()
        assert told == [{"name": "step", "version": "1", "state": "READY", "reason": ""}], told
        client.load_model("step")  # what is loaded already is loaded


def check_3_unknown_models_and_overrides_are_refused(url):
    with connect(url) as client:
        refused(lambda: client.load_model("nobody"), "failed to load 'nobody', failed to poll from model repository")
        refused(lambda: client.load_model("step", config="{}"), "failed to load 'step'", "'config' is not offered")
        files = {"file:1/model.onnx": b"x"}
        refused(lambda: client.load_model("step", config="{}", files=files), "is not offered")
        assert client.is_model_ready("step")


def check_4_unload(url):
    with connect(url) as client:
        client.unload_model("step", unload_dependents=True)
        assert not client.is_model_ready("step")
        client.unload_model("step")
        client.unload_model("nobody")
        client.load_model("step")
        assert client.is_model_ready("step")


run_all(globals())
