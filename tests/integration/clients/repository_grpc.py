"""tritonclient.grpc's calls about the repository, against a Gearshift under explicit control with nothing loaded.

The repository holds `step` 1: x FP32 [-1,4] -> y = x. The checks run in this order.
"""

import numpy as np
import tritonclient.grpc as triton
from checks import run_all
from refusal import refused


def index(client):
    return [(model.name, model.version, model.state) for model in client.get_model_repository_index().models]


def check_1_nothing_is_loaded(address):
    with triton.InferenceServerClient(address) as client:
        assert not client.is_model_ready("step")
        assert [(name, version) for name, version, _ in index(client)] == [("step", "")]


def check_2_load_and_answer(address):
    rows = np.ones((2, 4), np.float32)
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(address) as client:
        client.load_model("step")
        assert client.is_model_ready("step", "1")
        assert np.array_equal(client.infer("step", [tensor]).as_numpy("y"), rows)
        assert index(client) == [("step", "1", "READY")]


def check_3_what_cannot_be_loaded_is_refused(address):
    with triton.InferenceServerClient(address) as client:
        refused(lambda: client.load_model("nobody"), "failed to load 'nobody', failed to poll from model repository")
        refused(lambda: client.load_model("step", config="{}"), "failed to load 'step'", "'config' is not offered")


def check_4_unload(address):
    with triton.InferenceServerClient(address) as client:
        client.unload_model("step")
        assert not client.is_model_ready("step")


run_all(globals())
