"""Models whose answers are known beforehand, published as families into one repository.

| model | inputs -> outputs | what it is for |
|---|---|---|
| `scale` | x FP32 [-1,4] -> y = 3x, tag INT64 [-1,1] | three variants; the tag tells which one really ran |
| `pair` | a FP32 [-1,3], b INT64 [-1,2] -> doubled, next | several inputs and outputs |
| `text` | text BYTES [-1,2] -> the same | BYTES |
| `free` 1, 2 | x FP32 [-1,-1] -> 2x (version 1), 5x (version 2) | a free trailing axis; two versions |
| `padded` | ids INT64 [-1,-1] filled up to 4, 8 or 64 -> sum, width INT64 [-1] | the width tells the bucket |
| `fixed` | x FP32 [2,3] -> x + 1 | no batch axis |
| `lookup` | index INT64 [-1,1] -> 10 * index | fails when an index is not in -10..9 |
| `slow` | x FP32 [-1,1] -> x + 1 | one row a batch, tens of milliseconds each |
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import Budget, Family, Padding, Variant
from models.repository import publish
from models.session import Session

OPSET = helper.make_opsetid("", 17)
IR_VERSION = 8
BALLAST = 384
"""Side of the square matrices that make a model slow: one product is 57 million multiplications."""

SCALE_TAGS = {"exact": 1, "medium": 2, "quick": 3}
SCALE_ACCURACY = {"exact": 0.9, "medium": 0.8, "quick": 0.6}
PADDING = Padding(axis=1, buckets=(4, 8, 64), value=0)
_SCALE_PRODUCTS = {"exact": 12, "medium": 4, "quick": 0}
_SLOW_PRODUCTS = 90
_WEIGHTY_PRODUCTS = 2

Value = onnx.ValueInfoProto
Node = onnx.NodeProto


def publish_all(root: Path) -> None:
    """Write every family of the table above into `root`."""
    _publish(root, "scale", [(name, SCALE_ACCURACY[name], _scale(name)) for name in SCALE_TAGS])
    _publish(root, "pair", [("only", None, _pair())])
    _publish(root, "text", [("only", None, _text())])
    _publish(root, "free", [("only", None, _free(2.0))])
    _publish(root, "free", [("only", None, _free(5.0))], version="2")
    _publish(root, "padded", [("only", None, _padded())], padding=PADDING)
    _publish(root, "fixed", [("only", None, _fixed())])
    _publish(root, "lookup", [("only", None, _lookup())])
    _publish(root, "slow", [("only", None, slow_model())], latency_ms=120_000.0, max_batch_rows=1)


def _publish(
    root: Path,
    name: str,
    variants: Sequence[tuple[str, float | None, bytes]],
    *,
    version: str = "1",
    latency_ms: float = 5_000.0,
    max_batch_rows: int = 256,
    padding: Padding | None = None,
) -> None:
    graph = Session(variants[0][2])
    family = Family(
        name=name,
        version=version,
        description=f"{name}, whose answers are known beforehand",
        inputs=tuple(spec.model_copy(update={"padding": padding}) for spec in graph.inputs),
        outputs=graph.outputs,
        # Generous: these tests share two cores with the load they make.
        default_budget=Budget(latency_ms=latency_ms),
        max_batch_rows=max_batch_rows,
        variants=tuple(
            Variant(
                name=variant,
                file=f"{variant}.onnx",
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                accuracy=accuracy,
            )
            for variant, accuracy, content in variants
        ),
    )
    publish(root, family, {f"{variant}.onnx": content for variant, _, content in variants})


def _model(
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value], constants: dict[str, np.ndarray]
) -> bytes:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "known", list(inputs), list(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[OPSET], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _float(name: str, *shape: int | str) -> Value:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _int(name: str, *shape: int | str) -> Value:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def _ballast(source: str, products: int) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Nodes that make `zero` [1] out of `source`, at the price of that many matrix products a batch.

    The matrix depends on the input, so nothing can be folded beforehand; it is orthogonal, so nothing
    overflows or becomes denormal.
    """
    matrix, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((BALLAST, BALLAST)))
    nodes = [
        helper.make_node("ReduceMean", [source], ["mean"], axes=[0, 1], keepdims=1),
        helper.make_node("Add", ["mean", "matrix"], ["product0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"product{step}", "matrix"], [f"product{step + 1}"]) for step in range(products)
    ]
    nodes += [
        helper.make_node("ReduceMean", [f"product{products}"], ["level"], axes=[0, 1], keepdims=0),
        helper.make_node("Mul", ["level", "nothing"], ["zero"]),
    ]
    return nodes, {"matrix": matrix.astype(np.float32), "nothing": np.zeros(1, np.float32)}


def _scale(variant: str) -> bytes:
    ballast, constants = _ballast("x", _SCALE_PRODUCTS[variant])
    constants |= {
        "three": np.array(3.0, np.float32),
        "number": np.array(SCALE_TAGS[variant], np.int64),
        "none": np.array(0.0, np.float32),
    }
    nodes = [
        *ballast,
        helper.make_node("Mul", ["x", "three"], ["tripled"]),
        helper.make_node("Add", ["tripled", "zero"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["row"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["row", "none"], ["row_zero"]),
        helper.make_node("Cast", ["row_zero"], ["row_whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["row_whole", "number"], ["tag"]),
    ]
    return _model(nodes, [_float("x", "rows", 4)], [_float("y", "rows", 4), _int("tag", "rows", 1)], constants)


def _pair() -> bytes:
    nodes = [helper.make_node("Mul", ["a", "two"], ["doubled"]), helper.make_node("Add", ["b", "one"], ["next"])]
    return _model(
        nodes,
        [_float("a", "rows", 3), _int("b", "rows", 2)],
        [_float("doubled", "rows", 3), _int("next", "rows", 2)],
        {"two": np.array(2.0, np.float32), "one": np.array(1, np.int64)},
    )


def _text() -> bytes:
    def value(name: str) -> Value:
        return helper.make_tensor_value_info(name, TensorProto.STRING, ["rows", 2])

    return _model([helper.make_node("Identity", ["text"], ["same"])], [value("text")], [value("same")], {})


def _free(factor: float) -> bytes:
    return _model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [_float("x", "rows", "columns")],
        [_float("y", "rows", "columns")],
        {"factor": np.array(factor, np.float32)},
    )


def _padded() -> bytes:
    """sum: of the numbers of a row; width: how long the row was when it came here, fillings and all."""
    nodes = [
        helper.make_node("ReduceSum", ["ids", "second"], ["sum"], keepdims=0),
        helper.make_node("Shape", ["ids"], ["length"], start=1, end=2),
        helper.make_node("Mul", ["sum", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "length"], ["width"]),
    ]
    return _model(
        nodes,
        [_int("ids", "rows", "length")],
        [_int("sum", "rows"), _int("width", "rows")],
        {"second": np.array([1], np.int64), "none": np.array(0, np.int64)},
    )


def _fixed() -> bytes:
    node = helper.make_node("Add", ["x", "one"], ["y"])
    return _model([node], [_float("x", 2, 3)], [_float("y", 2, 3)], {"one": np.array(1.0, np.float32)})


def _lookup() -> bytes:
    table = np.arange(10, dtype=np.float32) * 10
    node = helper.make_node("Gather", ["table", "index"], ["value"], axis=0)
    return _model([node], [_int("index", "rows", 1)], [_float("value", "rows", 1)], {"table": table})


def slow_model() -> bytes:
    """The graph of `slow`, also served as a bare file."""
    ballast, constants = _ballast("x", _SLOW_PRODUCTS)
    nodes = [*ballast, helper.make_node("Sum", ["x", "one", "zero"], ["y"])]
    constants["one"] = np.array(1.0, np.float32)
    return _model(nodes, [_float("x", "rows", 1)], [_float("y", "rows", 1)], constants)


def weighty_model() -> bytes:
    """x FP32 [-1,2] -> y = 2x, in some milliseconds: the noise of a busy host is small beside them."""
    ballast, constants = _ballast("x", _WEIGHTY_PRODUCTS)
    constants["two"] = np.array(2.0, np.float32)
    nodes = [
        *ballast,
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "zero"], ["y"]),
    ]
    return _model(nodes, [_float("x", "rows", 2)], [_float("y", "rows", 2)], constants)


def plain_model() -> bytes:
    """A tiny graph for serving one bare file: x FP32 [-1,2] -> y = 2x."""
    return _model(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        [_float("x", "rows", 2)],
        [_float("y", "rows", 2)],
        {"two": np.array(2.0, np.float32)},
    )
