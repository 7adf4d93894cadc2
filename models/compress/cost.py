"""What a graph costs, counted and not timed: shapes, multiply-adds, bytes of weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.compress.errors import Inapplicable
from models.session import ModelLoadError, ModelRunError, Session

FREE_LENGTH = 32
"""What a free dimension other than the batch counts as."""

Shape = tuple[int, ...]
Axis = tuple[str, int]
"""A tensor by name, and one of its axes."""
Product = tuple[Axis, ...]
"""The axes whose lengths, multiplied, are the multiply-adds of a node or of a part of it."""


def shapes(model: onnx.ModelProto, rows: int = 1, free_length: int = FREE_LENGTH) -> dict[str, Shape]:
    """The shape of every tensor of the main graph, for so many rows; other free dimensions have one length.

    Seen, not inferred: the graph is run once on zeros, since the arithmetic exporters do on shapes defeats
    inference. Raises `Inapplicable` when it does not run.
    """
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    graph = open_model.graph
    given = {output.name for output in graph.output}
    names = dict.fromkeys(name for node in graph.node for name in node.output if name and name not in given)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    inputs = {value.name: _zeros(value, rows, free_length) for value in true_inputs(graph)}
    try:
        values = Session(open_model.SerializeToString()).run(inputs)
    except (ModelLoadError, ModelRunError) as error:
        raise Inapplicable(f"the graph cannot be run on {rows} rows of zeros: {error}") from error
    found = {name: tuple(array.shape) for name, array in inputs.items()}
    found.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    found.update((name, np.shape(value)) for name, value in values.items())
    return found


def multiply_adds(model: onnx.ModelProto, rows: int = 1) -> int:
    """Multiplications with an addition that convolutions, matrix products and recurrences make for so many rows.

    What is done element by element is not counted, nor are operators that fuse several of these. Raises
    `Inapplicable` when the shapes cannot be seen.
    """
    seen = shapes(model, rows)
    return sum(
        math.prod(seen[name][axis] for name, axis in product)
        for node in model.graph.node
        for product in products(node, seen)
    )


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all initializers, as they are stored."""
    sizes = ((math.prod(tensor.dims), tensor.data_type) for tensor in model.graph.initializer)
    return sum(count * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize for count, kind in sizes)


def products(node: onnx.NodeProto, seen: Mapping[str, Shape]) -> Sequence[Product]:
    """The multiply-adds of a node as products of lengths of axes; none for nodes that are not counted."""
    rule = _RULES.get(node.op_type)
    return rule(node, seen) if rule else ()


def true_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs without the initializers that old files list among them."""
    initializers = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initializers]


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """A whole-number attribute of a node."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)


_Rule = Callable[[onnx.NodeProto, Mapping[str, Shape]], Sequence[Product]]


def _convolution(weight_at: int) -> _Rule:
    def rule(node: onnx.NodeProto, seen: Mapping[str, Shape]) -> Sequence[Product]:
        weight = node.input[weight_at]
        return [(*_axes(node.output[0], seen), *_axes(weight, seen)[1:])]

    return rule


def _matrix_product(node: onnx.NodeProto, seen: Mapping[str, Shape]) -> Sequence[Product]:
    left = node.input[0]
    inner = 0 if attribute(node, "transA", 0) and len(seen[left]) == 2 else len(seen[left]) - 1
    return [(*_axes(node.output[0], seen), (left, inner))]


def _einsum(node: onnx.NodeProto, _seen: Mapping[str, Shape]) -> Sequence[Product]:
    equation = next(item.s.decode() for item in node.attribute if item.name == "equation")
    if "." in equation or len(node.input) < 2:
        return ()
    places = {
        label: (name, axis)
        for name, term in zip(node.input, equation.split("->")[0].replace(" ", "").split(","), strict=True)
        for axis, label in enumerate(term)
    }
    return [tuple(places.values())]


def _transposed_convolution(node: onnx.NodeProto, seen: Mapping[str, Shape]) -> Sequence[Product]:
    return [(*_axes(node.input[0], seen), *_axes(node.input[1], seen)[1:])]


def _recurrence(node: onnx.NodeProto, seen: Mapping[str, Shape]) -> Sequence[Product]:
    steps = [(node.input[0], 0), (node.input[0], 1)]
    return [(*steps, *_axes(weight, seen)) for weight in node.input[1:3]]


def _axes(name: str, seen: Mapping[str, Shape]) -> list[Axis]:
    return [(name, axis) for axis in range(len(seen[name]))]


_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "Conv": _convolution(1),
        "ConvInteger": _convolution(1),
        "ConvTranspose": _transposed_convolution,
        "DynamicQuantizeMatMul": _matrix_product,
        "Einsum": _einsum,
        "FusedConv": _convolution(1),
        "FusedGemm": _matrix_product,
        "FusedMatMul": _matrix_product,
        "GRU": _recurrence,
        "Gemm": _matrix_product,
        "LSTM": _recurrence,
        "MatMul": _matrix_product,
        "MatMulInteger": _matrix_product,
        "MatMulNBits": _matrix_product,
        "QGemm": _matrix_product,
        "QLinearConv": _convolution(3),
        "QLinearMatMul": _matrix_product,
        "RNN": _recurrence,
    }
)


def _zeros(value: onnx.ValueInfoProto, rows: int, free_length: int) -> NDArray[Any]:
    """Zeros of an input's type and shape; its first dimension is the batch if it is free."""
    dimensions = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    shape = [size or (free_length if axis else rows) for axis, size in enumerate(dimensions)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return np.full(shape, "", dtype=object) if dtype.kind == "O" else np.zeros(shape, dtype)
