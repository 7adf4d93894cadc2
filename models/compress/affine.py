"""Merge pre-processing into the first layer: a scale and a shift of its input become part of its weights.

A layer L with weights w sees s * x + t. Its products are linear, so w * (s * x) = (w * s) * x for a scalar or a
value per input channel, and w * t is a constant that belongs into the bias. That constant is the same at each
place only where no zeros are padded around the image: there, the shift stays, as one addition of t / s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.compress import cost
from models.compress import graph as graphs
from models.compress.graph import Array, attributes

LAYERS = ("Conv", "Gemm", "MatMul")
SCALED = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True, slots=True)
class Chain:
    """What happens to a tensor before a layer sees it: value = scale * (the tensor, moved) + shift."""

    scale: NDArray[np.float64]
    """As many axes as the tensor has after the last node; broadcast to it without enlarging it."""
    shift: NDArray[np.float64]
    removed: tuple[onnx.NodeProto, ...] = ()
    """The nodes that scale and shift. Those between them that only move values stay."""


def merge_affine(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which scales and shifts in front of layers are part of their weights, where that saves a node."""
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    shapes = cost.shapes(model)
    for name in [node.output[0] for node in model.graph.node if node.op_type in LAYERS]:
        layer = graphs.producers(merged)[name]
        chain = _chain_before(merged, layer, shapes)
        if chain is not None and chain.removed:
            _merge(merged, layer, chain)
    del merged.graph.value_info[:]
    return graphs.without_dead_code(merged)


def _chain_before(model: onnx.ModelProto, layer: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> Chain | None:
    """The longest chain that ends at the layer's first input; None where nothing is known of that input."""
    constants, producers, consumers = graphs.weights(model), graphs.producers(model), graphs.consumers(model)
    outputs = {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    name = layer.input[0]
    while name in producers and name in shapes and len(consumers[name]) == 1 and name not in outputs:
        node = producers[name]
        data = [source for source in node.input if source and source not in constants]
        if len(data) != 1:
            break
        nodes.insert(0, node)
        name = data[0]
    if name not in shapes:
        return None
    chain = _identity(name, shapes)
    for node in nodes:
        chain = _extended(chain, node, constants, shapes) or _identity(node.output[0], shapes)
    return chain


def _identity(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Chain:
    ones = (1,) * len(shapes[name])
    return Chain(np.ones(ones), np.zeros(ones))


def _extended(
    chain: Chain, node: onnx.NodeProto, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> Chain | None:
    """The chain with one more node; None where the node does something else to its input."""
    if node.domain not in graphs.ONNX_DOMAINS or len(node.output) != 1:
        return None
    if node.op_type in SCALED:
        first_is_constant = node.input[0] in constants
        value = constants[node.input[0 if first_is_constant else 1]].astype(np.float64)
        return _scaled(chain, node, value, first_is_constant, shapes[node.input[1 if first_is_constant else 0]])
    if node.input[0] in constants:
        return None
    if node.op_type == "BatchNormalization":
        return _normalised(chain, node, [constants[name].astype(np.float64) for name in node.input[1:]])
    return _moved(chain, node, constants, len(shapes[node.output[0]]))


def _scaled(
    chain: Chain, node: onnx.NodeProto, value: NDArray[np.float64], first_is_constant: bool, shape: tuple[int, ...]
) -> Chain | None:
    # A constant that is wider than the tensor would enlarge it.
    sizes = zip(reversed(value.shape), reversed(shape), strict=False)
    if value.ndim > len(shape) or any(size not in (1, dim) for size, dim in sizes):
        return None
    scale, shift = chain.scale, chain.shift
    match node.op_type, first_is_constant:
        case "Mul", _:
            scale, shift = scale * value, shift * value
        case "Add", _:
            shift = shift + value
        case "Sub", False:
            shift = shift - value
        case "Sub", True:
            scale, shift = -scale, value - shift
        case "Div", False if np.all(value != 0):
            scale, shift = scale / value, shift / value
        case _:
            return None
    return replace(chain, scale=scale, shift=shift, removed=(*chain.removed, node))


def _normalised(chain: Chain, node: onnx.NodeProto, constants: Sequence[NDArray[np.float64]]) -> Chain | None:
    if attributes(node).get("training_mode"):
        return None
    gain, offset, mean, variance = (value.reshape(1, -1, *(1,) * (chain.scale.ndim - 2)) for value in constants)
    gain = gain / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    shift = (chain.shift - mean) * gain + offset
    return Chain(chain.scale * gain, shift, (*chain.removed, node))


def _moved(chain: Chain, node: onnx.NodeProto, constants: Mapping[str, Array], rank: int) -> Chain | None:
    """The chain after a node that moves values and changes none."""
    facts = attributes(node)
    if node.op_type == "Transpose" and "perm" in facts:
        return replace(chain, scale=chain.scale.transpose(facts["perm"]), shift=chain.shift.transpose(facts["perm"]))
    if node.op_type == "Unsqueeze":
        axes = tuple(facts["axes"] if "axes" in facts else constants[node.input[1]].tolist())
        return replace(chain, scale=np.expand_dims(chain.scale, axes), shift=np.expand_dims(chain.shift, axes))
    if node.op_type in ("Identity", "Reshape", "Flatten", "Squeeze") and chain.scale.size == chain.shift.size == 1:
        return replace(chain, scale=chain.scale.reshape((1,) * rank), shift=chain.shift.reshape((1,) * rank))
    return None


def _merge(model: onnx.ModelProto, layer: onnx.NodeProto, chain: Chain) -> None:
    """Let the layer do the chain's work, in place; nothing changes where that is not exact or saves no node."""
    constants = graphs.weights(model)
    weight = constants.get(layer.input[1])
    if weight is None or weight.dtype.kind != "f":
        return
    scale, shift = _per_channel(layer, weight, chain.scale), _per_channel(layer, weight, chain.shift)
    if scale is None or shift is None:
        return
    shifts = bool(np.any(shift))
    bias = _bias_after(model, layer, constants, weight) if shifts else None
    if shifts and bias is None and (len(chain.removed) < 2 or np.any(scale == 0)):
        return
    exact = weight.astype(np.float64)
    _replace(model, layer, 1, (exact * _spread(layer, weight, scale)).astype(weight.dtype))
    if shifts and bias is not None:
        owner, place, value = bias
        axes = tuple(range(1, weight.ndim)) if layer.op_type == "Conv" else _input_axis(layer)
        more = (exact * _spread(layer, weight, shift)).sum(axis=axes) * attributes(layer).get("alpha", 1.0)
        _replace(model, owner, place, (value + more).astype(weight.dtype))
    _bypass(model, chain.removed)
    if shifts and bias is None:
        _add_before(model, layer, (chain.shift / chain.scale).astype(weight.dtype))


def _per_channel(layer: onnx.NodeProto, weight: Array, value: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A value for each input channel of the layer; None where it differs along another axis."""
    if layer.op_type == "Gemm" and attributes(layer).get("transA"):
        return None
    if layer.op_type == "MatMul" and weight.ndim != 2:
        return None
    if layer.op_type == "Conv":
        axis, channels = 1, weight.shape[1] * attributes(layer).get("group", 1)
    else:
        axis, channels = value.ndim - 1, weight.shape[_input_axis(layer)]
    if value.size != value.shape[axis]:
        return None
    return np.broadcast_to(value.reshape(-1), (channels,))


def _spread(layer: onnx.NodeProto, weight: Array, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """A value for each input channel, in a shape that multiplies the weights."""
    if layer.op_type != "Conv":
        return value[:, None] if _input_axis(layer) == 0 else value[None, :]
    groups = attributes(layer).get("group", 1)
    each = np.repeat(value.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return each.reshape(*each.shape, *(1,) * (weight.ndim - 2))


def _input_axis(layer: onnx.NodeProto) -> int:
    return 1 if attributes(layer).get("transB") else 0


def _bias_after(
    model: onnx.ModelProto, layer: onnx.NodeProto, constants: Mapping[str, Array], weight: Array
) -> tuple[onnx.NodeProto, int, Array] | None:
    """Where a constant per output channel can go: a node, the place among its inputs, and what is there now."""
    facts = attributes(layer)
    if layer.op_type == "Conv":
        if any(facts.get("pads", ())) or facts.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            return None
        absent = np.zeros(weight.shape[0])
    else:
        absent = np.zeros(weight.shape[1 - _input_axis(layer)])
    if layer.op_type == "MatMul":
        readers = graphs.consumers(model).get(layer.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add" or layer.output[0] in _outputs(model):
            return None
        owner, place = readers[0], 1 if readers[0].input[0] == layer.output[0] else 0
        usable = owner.input[place] in constants and constants[owner.input[place]].shape == absent.shape
        return (owner, place, constants[owner.input[place]].astype(np.float64)) if usable else None
    if len(layer.input) < 3 or not layer.input[2]:
        return (layer, 2, absent) if facts.get("beta", 1.0) == 1.0 else None
    if layer.input[2] not in constants or facts.get("beta", 1.0) != 1.0:
        return None
    return layer, 2, constants[layer.input[2]].astype(np.float64)


def _outputs(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.output}


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, place: int, value: Array) -> None:
    """Give a node another constant, under a new name: others may read the old one."""
    name = graphs.unused_name(model, f"{node.output[0]}_{('input', 'weight', 'bias')[place]}")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    while len(node.input) <= place:
        node.input.append("")
    node.input[place] = name


def _bypass(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    constants = graphs.weights(model)
    for node in nodes:
        (source,) = [name for name in node.input if name not in constants]
        for reader in graphs.consumers(model).get(node.output[0], []):
            for place, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[place] = source
    graphs.drop(model.graph.node, nodes)


def _add_before(model: onnx.ModelProto, layer: onnx.NodeProto, value: Array) -> None:
    made = graphs.unused_name(model, f"{layer.input[0]}_shifted")
    addend = graphs.unused_name(model, f"{layer.input[0]}_shift")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), addend))
    place = next(index for index, node in enumerate(model.graph.node) if node.output[0] == layer.output[0])
    model.graph.node.insert(place, helper.make_node("Add", [layer.input[0], addend], [made], name=made))
    layer.input[0] = made
