"""A classifier that needs no training, and rows for it: for what is about the search, not about the models."""

import dataclasses
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.compress.dataset import Dataset, Rows, split
from models.compress.original import Original
from models.session import Session

CLASSES, WIDTH, ROWS = 4, 8, 240
BALLAST = 64_000
"""Bytes of the file that mean nothing: what fake passes take away, so that sizes tell their results apart."""


def content(ballast: int = BALLAST, weights: np.ndarray | None = None, repeats: int = 0) -> bytes:
    """Float32 x [n, WIDTH] -> scores [n, CLASSES]: the parts of x, summed by class; `repeats` makes it slower."""
    weights = np.eye(CLASSES, dtype=np.float32).repeat(WIDTH // CLASSES, axis=0) if weights is None else weights
    rounds = [helper.make_node("Softplus", [f"x{i}" if i else "x"], [f"x{i + 1}"]) for i in range(repeats)]
    graph = helper.make_graph(
        [*rounds, helper.make_node("MatMul", [f"x{repeats}" if repeats else "x", "w"], ["scores"], name="layer")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.doc_string = "." * ballast
    return bytes(model.SerializeToString())


def deep_content(random: np.random.Generator, width: int = 256, layers: int = 3) -> bytes:
    """The same classes for rows of either sign, by way of wide noisy layers: there is something to compress."""
    embed = np.eye(WIDTH, width, dtype=np.float32) - np.eye(WIDTH, width, WIDTH, dtype=np.float32)
    names = {"embed": embed}
    nodes = [
        helper.make_node("MatMul", ["x", "embed"], ["both"], name="embed"),
        helper.make_node("Relu", ["both"], ["h0"], name="size"),
    ]
    for at in range(layers):
        names[f"w{at}"] = np.eye(width, dtype=np.float32) + random.normal(0, 0.02, (width, width)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"h{at}", f"w{at}"], [f"h{at + 1}"], name=f"layer{at}"))
    by_class = np.eye(CLASSES, dtype=np.float32).repeat(WIDTH // CLASSES, axis=0)
    names["head"] = np.concatenate([by_class, by_class, np.zeros((width - 2 * WIDTH, CLASSES), np.float32)])
    nodes.append(helper.make_node("MatMul", [f"h{layers}", "head"], ["scores"], name="head"))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in names.items()],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def rows(count: int = ROWS, *, labelled: bool = True, signs: bool = False) -> Rows:
    """Rows that the model gets right, one in twenty excepted; with `signs` half are negative: a linear one cannot."""
    random = np.random.default_rng(5)
    labels = random.integers(CLASSES, size=count)
    x = random.normal(0, 0.2, (count, WIDTH)).astype(np.float32)
    x[np.arange(count), labels * (WIDTH // CLASSES)] += 3.0
    labels[::20] = (labels[::20] + 1) % CLASSES
    if signs:
        x[1::2] *= -1
    return Rows({"x": x}, labels if labelled else None)


def made(*, labelled: bool = True) -> tuple[Original, Dataset]:
    """The model and its data."""
    session = Session(content())
    return Original("linear", content(), session.inputs, session.outputs[0]), split(rows(labelled=labelled))


def lighter(model: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """A copy with that share of its ballast."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.doc_string = model.doc_string[: int(len(model.doc_string) * share)]
    return copy


def spend(seconds: float) -> None:
    """Be busy: work that a time budget counts."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def names(found) -> list[str]:
    """Of what an exploration made or dropped."""
    return [each.name for each in found]


parameters = dataclasses.dataclass(frozen=True, slots=True)
"""What a fake pass is decorated with."""
