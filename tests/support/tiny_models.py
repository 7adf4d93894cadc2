"""Models of a few bytes whose answers are known beforehand, and families of them."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import Budget, Family, LatencyProfile, Variant
from models.session import Session

Value = onnx.ValueInfoProto
Node = onnx.NodeProto


def model(
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, npt.NDArray[np.generic]] | None = None,
) -> bytes:
    """A checked ONNX file."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def value(name: str, kind: int, *shape: int | str) -> Value:
    """An input or output; a dimension given as text is free."""
    return helper.make_tensor_value_info(name, kind, shape)


def affine(factor: float = 2.0) -> bytes:
    """x FP32 [-1,2], tag FP32 [-1,1] -> y = factor*x + tag, and the tag itself: an answer names its own row."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "tag"], ["y"]),
        helper.make_node("Identity", ["tag"], ["who"]),
    ]
    return model(
        nodes,
        [value("x", TensorProto.FLOAT, "rows", 2), value("tag", TensorProto.FLOAT, "rows", 1)],
        [value("y", TensorProto.FLOAT, "rows", 2), value("who", TensorProto.FLOAT, "rows", 1)],
        {"factor": np.array(factor, np.float32)},
    )


def picky(rows: int = 3) -> bytes:
    """The affine model, which fails for a row whose tag is not an integer from -rows to rows - 1."""
    nodes = [
        helper.make_node("Cast", ["tag"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["who"], axis=0),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "tag"], ["y"]),
    ]
    return model(
        nodes,
        [value("x", TensorProto.FLOAT, "rows", 2), value("tag", TensorProto.FLOAT, "rows", 1)],
        [value("y", TensorProto.FLOAT, "rows", 2), value("who", TensorProto.FLOAT, "rows", 1)],
        {"factor": np.array(2.0, np.float32), "table": np.arange(rows, dtype=np.float32)},
    )


def slow(products: int = 400, side: int = 256) -> bytes:
    """The affine model after so many matrix products: some tenths of a second."""
    matrix, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((side, side)))
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0, 1], keepdims=1),
        helper.make_node("Add", ["mean", "matrix"], ["product0"]),  # depends on the input: cannot be folded
        *(helper.make_node("MatMul", [f"product{i}", "matrix"], [f"product{i + 1}"]) for i in range(products)),
        helper.make_node("ReduceMean", [f"product{products}"], ["level"], axes=[0, 1], keepdims=0),
        helper.make_node("Mul", ["level", "nothing"], ["zero"]),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Sum", ["scaled", "tag", "zero"], ["y"]),
        helper.make_node("Identity", ["tag"], ["who"]),
    ]
    return model(
        nodes,
        [value("x", TensorProto.FLOAT, "rows", 2), value("tag", TensorProto.FLOAT, "rows", 1)],
        [value("y", TensorProto.FLOAT, "rows", 2), value("who", TensorProto.FLOAT, "rows", 1)],
        {
            "matrix": matrix.astype(np.float32),
            "nothing": np.zeros(1, np.float32),
            "factor": np.array(2.0, np.float32),
        },
    )


def pair() -> bytes:
    """a FP32 [-1,3], b INT64 [-1,2] -> doubled, next."""
    return model(
        [helper.make_node("Mul", ["a", "two"], ["doubled"]), helper.make_node("Add", ["b", "one"], ["next"])],
        [value("a", TensorProto.FLOAT, "rows", 3), value("b", TensorProto.INT64, "rows", 2)],
        [value("doubled", TensorProto.FLOAT, "rows", 3), value("next", TensorProto.INT64, "rows", 2)],
        {"two": np.array(2.0, np.float32), "one": np.array(1, np.int64)},
    )


def fixed() -> bytes:
    """x FP32 [2,3] -> y = -x: no batch axis."""
    return model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, 2, 3)],
        [value("y", TensorProto.FLOAT, 2, 3)],
    )


def free() -> bytes:
    """x FP32 [-1,-1] -> y = -x: a free axis behind the rows."""
    return model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, "rows", "columns")],
        [value("y", TensorProto.FLOAT, "rows", "columns")],
    )


def text() -> bytes:
    """text BYTES [-1,2] -> the same."""
    return model(
        [helper.make_node("Identity", ["text"], ["same"])],
        [value("text", TensorProto.STRING, "rows", 2)],
        [value("same", TensorProto.STRING, "rows", 2)],
    )


def elsewhere() -> bytes:
    """A model whose weight lies in another file."""
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "weight")
    weight.data_location = TensorProto.EXTERNAL
    weight.ClearField("raw_data")
    for key, found in (("location", "weights.bin"), ("offset", "0"), ("length", "16")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, found
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "tiny",
        [value("x", TensorProto.FLOAT, "rows", 2)],
        [value("y", TensorProto.FLOAT, "rows", 2)],
        [weight],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def family_of(
    files: dict[str, bytes],
    *,
    name: str = "tiny",
    version: str = "1",
    accuracies: Sequence[float] | None = None,
    latency_ms: float = 1000.0,
    max_batch_rows: int = 256,
) -> Family:
    """A family of these variants, name -> ONNX file; all have the inputs and outputs of the first."""
    graph = Session(next(iter(files.values())))
    return Family(
        name=name,
        version=version,
        inputs=graph.inputs,
        outputs=graph.outputs,
        default_budget=Budget(latency_ms=latency_ms),
        max_batch_rows=max_batch_rows,
        variants=tuple(
            Variant(
                name=variant,
                file=f"{variant}.onnx",
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                accuracy=None if accuracies is None else accuracies[index],
            )
            for index, (variant, content) in enumerate(files.items())
        ),
    )


def profile(ms: Sequence[float], *, energy_mj: float = 0.0) -> LatencyProfile:
    """A profile that says `ms[i]` milliseconds for 1, 2, 4, ... rows."""
    rows = tuple(1 << power for power in range(len(ms)))
    source = "estimate" if energy_mj else "none"
    return LatencyProfile(
        rows=rows, seconds=tuple(value / 1e3 for value in ms), energy_mj_per_row=energy_mj, energy_source=source
    )
