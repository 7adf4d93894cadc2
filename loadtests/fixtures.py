"""The model every benchmarked server serves: a seeded MLP as ONNX, its inputs and its reference answers.

784-1024-1024-1024-10 with ReLU between the layers and softmax at the end: 2.9 million weights, about
0.2 ms a row on one core. Small enough that the server, and not the model, decides the result.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

LAYERS = (784, 1024, 1024, 1024, 10)
INPUT_NAME = "input"
OUTPUT_NAME = "output"
SEED = 20_260
_OPSET = 17  # old enough for any ONNX Runtime of the last years
_IR_VERSION = 8  # the oldest file format that carries opset 17

FloatArray = npt.NDArray[np.float32]


def build_mlp(seed: int = SEED) -> onnx.ModelProto:
    """Return the MLP: `input` FP32 [-1, 784] -> `output` FP32 [-1, 10], the same bytes for the same seed.

    Weights follow He et al. 2015 (normal, variance 2 / fan-in), so that activations keep their scale
    and the ten outputs differ from row to row: a mixed-up batch then shows in the answers.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    last = len(LAYERS) - 2
    value = INPUT_NAME
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(LAYERS)):
        scale = np.sqrt(2.0 / fan_in)
        matrix = (rng.standard_normal((fan_in, fan_out)) * scale).astype(np.float32)
        bias = (rng.standard_normal(fan_out) * 0.1).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"weight_{index}"),
            numpy_helper.from_array(bias, f"bias_{index}"),
        ]
        linear = f"linear_{index}"
        nodes.append(helper.make_node("Gemm", [value, f"weight_{index}", f"bias_{index}"], [linear]))
        if index == last:
            nodes.append(helper.make_node("Softmax", [linear], [OUTPUT_NAME], axis=-1))
        else:
            value = f"relu_{index}"
            nodes.append(helper.make_node("Relu", [linear], [value]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", LAYERS[0]])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", LAYERS[-1]])],
        weights,
    )
    model = helper.make_model(graph, producer_name="gearshift", opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return model


def mlp_file(folder: Path, seed: int = SEED) -> Path:
    """Return the path of the MLP in `folder`; it is built there on the first call and then kept."""
    name = "-".join(str(width) for width in LAYERS)
    path = folder / f"mlp-{name}-seed{seed}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        draft.write_bytes(build_mlp(seed).SerializeToString())
        draft.replace(path)  # whoever sees the name sees the whole file
    return path


def sample_rows(count: int, seed: int = SEED) -> FloatArray:
    """Return `count` rows, shape [count, 784]: byte pixels scaled to 0..1, as an image caller sends them."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(count, LAYERS[0]))
    return (pixels / 255.0).astype(np.float32)


def reference_outputs(model: Path, rows: FloatArray) -> FloatArray:
    """Return the answers of ONNX Runtime to `rows`, one row at a time, shape [len(rows), 10]."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    answers = [session.run([OUTPUT_NAME], {INPUT_NAME: row[np.newaxis]})[0] for row in rows]
    return np.concatenate(answers).astype(np.float32, copy=False)
