"""The least of the Open Inference Protocol v2 that the peers need: one FP32 input, one FP32 output.

All peers share it, so that they differ in how they serve and not in how they parse. It is what one writes
by hand for one's own model: orjson, numpy, no general validation.
"""

import os
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
import orjson

MODEL_NAME = "mlp"
HEADER_LENGTH = "inference-header-content-length"


def open_session() -> ort.InferenceSession:
    """Open the model named by `MODEL_PATH` with one thread a call: the server brings the parallelism."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(os.environ["MODEL_PATH"], options, providers=["CPUExecutionProvider"])


def decode(body: bytes, headers: Mapping[str, str]) -> np.ndarray:
    """Return the rows of a request body, float32 [n, 784], from JSON data or from a binary tensor."""
    header_length = headers.get(HEADER_LENGTH)
    if header_length is None:
        tensor = orjson.loads(body)["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    split = int(header_length)
    tensor = orjson.loads(body[:split])["inputs"][0]
    return np.frombuffer(body[split:], dtype="<f4").reshape(tensor["shape"])


def encode(output: np.ndarray, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an answer; a binary request gets a binary answer."""
    tensor = {"name": "output", "datatype": "FP32", "shape": output.shape}
    answer = {"model_name": MODEL_NAME, "outputs": [tensor]}
    if not binary:
        tensor["data"] = output.ravel()
        body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        return body, {"content-type": "application/json"}
    tensor["parameters"] = {"binary_data_size": output.nbytes}
    head = orjson.dumps(answer)
    return head + output.tobytes(), {
        "content-type": "application/octet-stream",
        HEADER_LENGTH: str(len(head)),
    }
