"""Weights stored in fewer bits than they are computed with: unpacked once, when the model is loaded.

ONNX Runtime folds what depends only on constants while it loads. A weight written as `Cast(half)` or as
`integers x scales` is therefore float32 again before the first request: the file is smaller, the speed that of
the original, and the memory in use too.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.compress import graph as graphs
from models.compress.errors import Inapplicable
from models.compress.graph import Array

LEAST_ELEMENTS = 256
"""A smaller tensor costs more in nodes than it saves."""
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of the greatest weight of a block that its scale may cover; the one with the least squared error is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """How one weight is stored: tensors, and the nodes that make of them the tensor of the weight's name."""

    tensors: Mapping[str, Array]
    nodes: tuple[onnx.NodeProto, ...]


Pack = Callable[[str, NDArray[np.float32]], Packed]


def weights_to_pack(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The float32 constants of the main graph that are large enough, by name."""
    outputs = {value.name for value in model.graph.output}
    return {
        name: array
        for name, array in graphs.weights(model).items()
        if array.dtype == np.float32 and array.size >= LEAST_ELEMENTS and name not in outputs
    }


def readers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that read such constants, in order. Raises `Inapplicable` when there are none."""
    weights = weights_to_pack(model)
    found = [node for node in model.graph.node if not weights.keys().isdisjoint(node.input)]
    if not found:
        raise Inapplicable(f"no weight of float32 has {LEAST_ELEMENTS} elements or more")
    return found


def read_by(model: onnx.ModelProto, layers: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """Such constants that the nodes of these names read."""
    read = {name for node in model.graph.node if node.name in layers for name in node.input}
    return {name: array for name, array in weights_to_pack(model).items() if name in read}


def with_packed(model: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]], pack: Pack) -> onnx.ModelProto:
    """A copy in which these constants are stored as `pack` says."""
    copy = graphs.with_weights(model, weights)
    graph = copy.graph
    # A constant that is also declared an input may be overridden by callers, and so would never be folded.
    graphs.drop(graph.input, [value for value in graph.input if value.name in weights])
    graphs.drop(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in weights])
    first: list[onnx.NodeProto] = []
    for name, array in weights.items():
        packed = pack(name, array)
        graph.initializer.extend(numpy_helper.from_array(tensor, key) for key, tensor in packed.tensors.items())
        first.extend(packed.nodes)
    rest = onnx.GraphProto()
    rest.node.extend(graph.node)  # A copy: clearing a repeated field empties the messages it held.
    del graph.node[:]
    graph.node.extend([*first, *rest.node])
    return copy


def halves(name: str, array: NDArray[np.float32]) -> Packed:
    """In 16 bits: float16, or bfloat16 where a value is beyond the range of the former."""
    within = np.abs(array).max() <= np.finfo(np.float16).max
    stored = array.astype(np.float16 if within else ml_dtypes.bfloat16)
    cast = helper.make_node("Cast", [f"{name}/16"], [name], to=TensorProto.FLOAT)
    return Packed({f"{name}/16": stored}, (cast,))


def blocks(bits: int, size: int) -> Pack:
    """In integers of 4 or 8 bits, with a float16 scale for every `size` weights that lie side by side."""
    greatest = 2 ** (bits - 1) - 1

    def pack(name: str, array: NDArray[np.float32]) -> Packed:
        rows = np.zeros((-(-array.size // size), size), np.float32)
        rows.reshape(-1)[: array.size] = array.ravel()
        integers, scales = _rounded(rows, greatest)
        tensors: dict[str, Array] = {
            f"{name}/int": integers.astype(ml_dtypes.int4 if bits == 4 else np.int8),
            f"{name}/scale": scales,
            f"{name}/shape": np.array(array.shape, np.int64),
        }
        nodes = [
            helper.make_node("Cast", [f"{name}/int"], [f"{name}/float"], to=TensorProto.FLOAT),
            helper.make_node("Cast", [f"{name}/scale"], [f"{name}/scales"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}/float", f"{name}/scales"], [f"{name}/blocks"]),
        ]
        whole = f"{name}/blocks"
        if rows.size != array.size:
            tensors |= {
                f"{name}/flat": np.array([-1], np.int64),
                f"{name}/from": np.array([0], np.int64),
                f"{name}/to": np.array([array.size], np.int64),
            }
            nodes += [
                helper.make_node("Reshape", [whole, f"{name}/flat"], [f"{name}/padded"]),
                helper.make_node("Slice", [f"{name}/padded", f"{name}/from", f"{name}/to"], [f"{name}/cut"]),
            ]
            whole = f"{name}/cut"
        nodes.append(helper.make_node("Reshape", [whole, f"{name}/shape"], [name]))
        return Packed(tensors, tuple(nodes))

    return pack


def _rounded(rows: NDArray[np.float32], greatest: int) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Whole numbers [blocks, size] within +-greatest, and the scale of each block [blocks, 1]."""
    peak = np.abs(rows).max(axis=1, keepdims=True)
    least = np.full_like(peak, np.inf)
    best = np.zeros_like(rows)
    scales = np.ones(peak.shape, np.float16)
    smallest = np.finfo(np.float16).smallest_subnormal
    for shrink in SHRINKS:
        scale = np.clip(peak * shrink / greatest, smallest, np.finfo(np.float16).max).astype(np.float16)
        exact = scale.astype(np.float32)
        integers = np.clip(np.rint(rows / exact), -greatest, greatest)
        error = np.square(integers * exact - rows).sum(axis=1, keepdims=True)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, integers, best)
        scales = np.where(better, scale, scales)
    return best, scales
