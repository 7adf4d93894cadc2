"""The weights of an 8-bit model in 4 bits: half the file again, and the same speed.

A weight is written as `Cast(4 bits to 8)`. ONNX Runtime carries that out while it loads, before it puts its 8-bit
kernels into place, so what runs is what ran before: 8-bit products with other integers. Which integers, `rounding`
says, layer after layer, each on the inputs that the layers rounded before it give.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.compress import graph as graphs
from models.compress.errors import Inapplicable
from models.compress.graph import Array
from models.compress.rounding import rounded
from models.session import Tensor

BITS = 4
OPSET = 21
"""The first version of the operators that knows tensors of 4 bits."""
LEAST_ELEMENTS = 1024
"""A smaller weight costs more in accuracy than it saves."""
PATCHES = 1 << 16
"""Inputs of a layer that its moments are taken over, at most: a convolution has one at each place of each image."""

Batches = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A convolution or matrix product whose weight stands in 8 bits, a scale a channel."""

    node: onnx.NodeProto
    weight: str
    scale: str
    bias: str | None
    """Integers of 32 bits, and their scale, where it has such a bias."""
    bias_scale: str | None


def in_four_bits(model: onnx.ModelProto, batches: Batches) -> onnx.ModelProto:
    """A copy with the weights of its 8-bit layers in 4 bits, rounded for these rows.

    Raises `Inapplicable` where there are none.
    """
    copy = graphs.raised(model, OPSET)
    layers = list(_layers(copy))
    if not layers:
        raise Inapplicable(f"no layer has {LEAST_ELEMENTS} or more weights in 8 bits with a scale for each channel")
    for layer in layers:
        _round(copy, layer, batches)
    casts = [_packed(copy, layer.weight) for layer in layers]
    nodes = onnx.GraphProto()
    nodes.node.extend(copy.graph.node)  # A copy: clearing a repeated field empties the messages it held.
    del copy.graph.node[:]
    copy.graph.node.extend([*casts, *nodes.node])
    return copy


def _layers(model: onnx.ModelProto) -> Iterator[_Layer]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = graphs.producers(model)

    def integers(name: str) -> tuple[str, str] | None:
        node = made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear" or not {*node.input[:2]} <= tensors.keys():
            return None
        return node.input[0], node.input[1]

    for node in model.graph.node:
        weight = integers(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if weight is None or tensors[weight[0]].data_type != TensorProto.INT8:
            continue
        values = numpy_helper.to_array(tensors[weight[0]])
        matrix = _as_matrix(node, values)
        scales = int(np.prod(tensors[weight[1]].dims))
        if values.size < LEAST_ELEMENTS or matrix is None or scales != len(matrix):
            continue
        bias = integers(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        yield _Layer(node, *weight, *(bias or (None, None)))


def _round(model: onnx.ModelProto, layer: _Layer, batches: Batches) -> None:
    """Put other integers in the place of a layer's weights, and what they change on average into its bias."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    values, scales = (numpy_helper.to_array(tensors[name]) for name in (layer.weight, layer.scale))
    matrix = _as_matrix(layer.node, values)
    if matrix is None:
        raise TypeError(f"{layer.node.name} was no layer to round")
    exact = matrix.astype(np.float64) * scales.astype(np.float64)[:, None]
    moments, mean = _moments(layer.node, values.shape, _inputs(model, layer.node.input[0], batches))
    found, new_scales = rounded(exact, moments, BITS)
    if layer.bias is not None and layer.bias_scale is not None:
        bias, bias_scale = (numpy_helper.to_array(tensors[name]) for name in (layer.bias, layer.bias_scale))
        shift = (exact - found * new_scales[:, None]) @ mean  # Nagel et al., "Data-free quantization", ICCV 2019.
        step = bias_scale / scales * new_scales  # of the input, times that of the weights
        whole = np.rint((bias * bias_scale.astype(np.float64) + shift) / step)
        limits = np.iinfo(np.int32)
        _put(tensors[layer.bias], np.clip(whole, limits.min, limits.max).astype(np.int32))
        _put(tensors[layer.bias_scale], step.astype(np.float32))
    _put(tensors[layer.weight], _from_matrix(layer.node, found, values.shape))
    _put(tensors[layer.scale], new_scales.astype(np.float32))


def _packed(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """Store this weight in 4 bits; returns the node that unpacks it."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            small = numpy_helper.to_array(tensor).astype(ml_dtypes.int4)
            tensor.CopyFrom(numpy_helper.from_array(small, f"{name}/4"))
    return helper.make_node("Cast", [f"{name}/4"], [name], to=TensorProto.INT8)


def _inputs(model: onnx.ModelProto, name: str, batches: Batches) -> Iterator[Array]:
    """A tensor's values for each batch."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        graphs.without_dead_code(asked).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for batch in batches:
        yield session.run(None, dict(batch))[0]


def _moments(
    node: onnx.NodeProto, shape: tuple[int, ...], inputs: Iterator[Array]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of x x^T and of x over what the rows of the layer's weight matrix are multiplied with."""
    rng = np.random.default_rng(0)
    total: Any = 0.0
    mean: Any = 0.0
    count = 0
    for values in inputs:
        rows = _patches(node, shape, values) if node.op_type == "Conv" else values.reshape(-1, values.shape[-1])
        share = PATCHES // 8
        if len(rows) > share:
            rows = rows[rng.choice(len(rows), share, replace=False)]
        rows = rows.astype(np.float32)
        total = total + rows.T @ rows
        mean = mean + rows.sum(axis=0)
        count += len(rows)
    return np.asarray(total, np.float64) / count, np.asarray(mean, np.float64) / count


def _patches(node: onnx.NodeProto, shape: tuple[int, ...], images: Array) -> Array:
    """What each place of a convolution sees, [places, channels x height x width]."""
    facts = graphs.attributes(node)
    top, left, bottom, right = facts.get("pads", [0, 0, 0, 0])
    down, along = facts.get("strides", [1, 1])
    padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, shape[2:], axis=(2, 3))[:, :, ::down, ::along]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, int(np.prod(shape[1:])))


def _as_matrix(node: onnx.NodeProto, values: Array) -> Array | None:
    """A weight as [channels, inputs]; None for what is not multiplied that way (groups, dilation, other ranks)."""
    facts = graphs.attributes(node)
    if node.op_type == "Conv":
        plain = facts.get("group", 1) == 1 and set(facts.get("dilations", [1])) == {1}
        explicit = facts.get("auto_pad", b"NOTSET") == b"NOTSET"
        return values.reshape(len(values), -1) if values.ndim == 4 and plain and explicit else None
    if values.ndim != 2 or facts.get("transA", 0):
        return None
    return values if facts.get("transB", 0) else values.T


def _from_matrix(node: onnx.NodeProto, matrix: Array, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Conv" or graphs.attributes(node).get("transB", 0):
        return matrix.reshape(shape)
    return np.ascontiguousarray(matrix.T)


def _put(tensor: onnx.TensorProto, values: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
