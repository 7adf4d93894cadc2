"""What each operator ties: the rules that `ties.Ties` is filled by.

A rule may leave untied what its operator lets go freely. Whatever would need more than shorter weights is
frozen, except what `channels` mends afterwards: shapes of Reshape and Expand, sizes of Split, numbers of groups.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray

from models.compress.cost import Shape, attribute
from models.compress.graph import ONNX_DOMAINS, opset
from models.compress.ties import Ties

Rule = Callable[[Ties, onnx.NodeProto], None]


def tied(model: onnx.ModelProto, shapes: Mapping[str, Shape], constants: Mapping[str, NDArray[np.generic]]) -> Ties:
    """The ties of a whole graph of these shapes."""
    ties = Ties(shapes, constants, opset(model))
    graph = model.graph
    ties.freeze_tensors(value.name for value in (*graph.input, *graph.output))
    # Shapes, places and masks: their values speak of axes, which only the rule of their reader could mend.
    ties.freeze_tensors(name for name, array in constants.items() if array.dtype.kind != "f")
    for node in graph.node:
        known = node.domain in ONNX_DOMAINS and all(name in shapes for name in (*node.input, *node.output) if name)
        rule = RULES.get(node.op_type, unknown) if known else unknown
        rule(ties, node)
    return ties


def unknown(ties: Ties, node: onnx.NodeProto) -> None:
    """Nothing of what it touches may change."""
    ties.freeze_tensors(node.input)
    ties.freeze_tensors(node.output)


def elementwise(ties: Ties, node: onnx.NodeProto) -> None:
    """Inputs are broadcast to the output; what is broadcast is free of it."""
    for name in filter(None, node.input):
        _broadcast(ties, name, node.output[0])
    ties.freeze_tensors(node.output[1:])


def convolution(ties: Ties, node: onnx.NodeProto) -> None:
    """Output channels with rows of the weight, input channels with its columns; in groups, whole groups."""
    x, weight, y, groups = node.input[0], node.input[1], node.output[0], attribute(node, "group", 1)
    for name in (x, weight, y):
        ties.freeze(*ties.axes(name)[2:])
    ties.tie(ties.axis(y, 1), ties.axis(weight, 0))
    if len(node.input) > 2 and node.input[2]:
        ties.tie(ties.axis(y, 1), ties.axis(node.input[2], 0))
    if groups == 1:
        ties.tie(ties.axis(x, 1), ties.axis(weight, 1))
        return
    ties.freeze(ties.axis(weight, 1))
    _tie_groups(ties, x, y, groups)


def gemm(ties: Ties, node: onnx.NodeProto) -> None:
    """A' [m, k] times B' [k, n]."""
    a, b, y = node.input[0], node.input[1], node.output[0]
    swapped_a, swapped_b = attribute(node, "transA", 0), attribute(node, "transB", 0)
    ties.tie(ties.axis(a, 0 if swapped_a else 1), ties.axis(b, 1 if swapped_b else 0))
    ties.tie(ties.axis(y, 0), ties.axis(a, 1 if swapped_a else 0))
    ties.tie(ties.axis(y, 1), ties.axis(b, 0 if swapped_b else 1))
    if len(node.input) > 2 and node.input[2]:
        _broadcast(ties, node.input[2], y)


def matrix_product(ties: Ties, node: onnx.NodeProto) -> None:
    """[..., m, k] times [..., k, n], the leading axes broadcast."""
    a, b, y = node.input[0], node.input[1], node.output[0]
    if min(len(ties.shapes[a]), len(ties.shapes[b])) < 2:
        unknown(ties, node)
        return
    ties.tie(ties.axis(a, -1), ties.axis(b, -2))
    ties.tie(ties.axis(y, -2), ties.axis(a, -2))
    ties.tie(ties.axis(y, -1), ties.axis(b, -1))
    for name in (a, b):
        for back in range(3, len(ties.shapes[name]) + 1):
            if ties.shapes[name][-back] != 1:
                ties.tie(ties.axis(name, -back), ties.axis(y, -back))


def einsum(ties: Ties, node: onnx.NodeProto) -> None:
    """Axes of one letter."""
    equation = next(item.s.decode() for item in node.attribute if item.name == "equation").replace(" ", "")
    if "." in equation or "->" not in equation:
        unknown(ties, node)
        return
    left, right = equation.split("->")
    letters: dict[str, tuple[str, int]] = {}
    for name, term in zip((*node.input, node.output[0]), (*left.split(","), right), strict=True):
        for axis, letter in enumerate(term):
            place = letters.setdefault(letter, (name, axis))
            ties.tie(ties.axis(name, axis), ties.axis(*place))


def by_channel(ties: Ties, node: onnx.NodeProto) -> None:
    """Normalisation with one parameter a channel."""
    _broadcast(ties, node.input[0], node.output[0])
    for name in filter(None, node.input[1:]):
        ties.tie(ties.axis(node.input[0], 1), ties.axis(name, 0))
    ties.freeze_tensors(node.output[1:])


def group_norm(ties: Ties, node: onnx.NodeProto) -> None:
    """Whole groups; the parameters are by channel or, before opset 21, by group."""
    x, y = node.input[0], node.output[0]
    groups = attribute(node, "num_groups", 1)
    _broadcast(ties, x, y)
    _tie_groups(ties, x, y, groups)
    heads = ties.axis(x, 1).reshape(groups, -1)[:, 0]
    for name in node.input[1:3]:
        own = ties.axis(name, 0).reshape(groups, -1)
        ties.tie(own, heads[:, None])


def layer_norm(ties: Ties, node: onnx.NodeProto) -> None:
    """Parameters are broadcast to the trailing axes; fewer channels are normalised by their own statistics."""
    for name in filter(None, node.input[:3]):
        _broadcast(ties, name, node.output[0])
    ties.freeze_tensors(node.output[1:])


def pooling(ties: Ties, node: onnx.NodeProto) -> None:
    """Each channel by itself."""
    x, y = node.input[0], node.output[0]
    for axis in (0, 1):
        ties.tie(ties.axis(x, axis), ties.axis(y, axis))
    ties.freeze(*ties.axes(x)[2:], *ties.axes(y)[2:])
    ties.freeze_tensors(node.output[1:])


def reduction(ties: Ties, node: onnx.NodeProto) -> None:
    """The axes that stay; of those reduced any element may go."""
    x, y = node.input[0], node.output[0]
    rank = len(ties.shapes[x])
    named = _axes_of(ties, node)
    if named is None:
        if len(node.input) > 1 and node.input[1]:
            unknown(ties, node)
        elif attribute(node, "noop_with_empty_axes", 0):
            elementwise(ties, node)
        return
    gone = {axis % rank for axis in named}
    kept = [axis for axis in range(rank) if axis not in gone]
    places = kept if attribute(node, "keepdims", 1) else range(len(kept))
    for axis, place in zip(kept, places, strict=True):
        ties.tie(ties.axis(x, axis), ties.axis(y, place))


def softmax(ties: Ties, node: onnx.NodeProto) -> None:
    """What competes must stay; before opset 13 that is the axis and all later ones."""
    elementwise(ties, node)
    axes = ties.axes(node.input[0])
    axis = attribute(node, "axis", -1 if ties.opset >= 13 else 1) % len(axes)
    ties.freeze(*(axes[axis:] if ties.opset < 13 else axes[axis : axis + 1]))


def transpose(ties: Ties, node: onnx.NodeProto) -> None:
    """Axes change places."""
    axes = ties.axes(node.input[0])
    order = next((list(item.ints) for item in node.attribute if item.name == "perm"), list(range(len(axes)))[::-1])
    for place, axis in enumerate(order):
        ties.tie(ties.axis(node.output[0], place), axes[axis])


def concat(ties: Ties, node: onnx.NodeProto) -> None:
    """The parts of one axis follow each other; the other axes are common."""
    _parts(ties, node.output[0], list(node.input), attribute(node, "axis", 0))


def split(ties: Ties, node: onnx.NodeProto) -> None:
    """The reverse of concat."""
    _parts(ties, node.input[0], list(node.output), attribute(node, "axis", 0))


def slice_(ties: Ties, node: onnx.NodeProto) -> None:
    """Axes that are left whole; one that is cut stays as it is."""
    steps = ties.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else [1]
    if steps is None or min(steps, default=1) < 0:
        unknown(ties, node)
    else:
        _same_length(ties, node.input[0], node.output[0])


def gather(ties: Ties, node: onnx.NodeProto) -> None:
    """The axis that is looked up stays; the axes beside it go through."""
    x, index, y = node.input[0], node.input[1], node.output[0]
    old, new, inserted = ties.axes(x), ties.axes(y), len(ties.shapes[index])
    axis = attribute(node, "axis", 0) % len(old)
    ties.freeze(old[axis], *new[axis : axis + inserted])
    ties.freeze_tensors([index])
    for some, others in zip(old[:axis] + old[axis + 1 :], new[:axis] + new[axis + inserted :], strict=True):
        ties.tie(some, others)


def reshape(ties: Ties, node: onnx.NodeProto) -> None:
    """The same elements in the same order."""
    if node.op_type == "Squeeze" and _axes_of(ties, node) is None:
        unknown(ties, node)  # What else would be squeezed depends on what is left.
    else:
        ties.reshape(node.input[0], node.output[0])


def repeated(ties: Ties, node: onnx.NodeProto) -> None:
    """Axes that keep their length; those that are made longer stay."""
    _same_length(ties, node.input[0], node.output[0])


def new_tensor(ties: Ties, node: onnx.NodeProto) -> None:
    """The output is made of numbers; the input, if any, may still change."""
    ties.freeze_tensors(node.output)


def triangle(ties: Ties, node: onnx.NodeProto) -> None:
    """The last two axes have an order that must stay."""
    elementwise(ties, node)
    ties.freeze(*ties.axes(node.input[0])[-2:])


def nothing(_ties: Ties, _node: onnx.NodeProto) -> None:
    """A constant is tied by who reads it."""


def _broadcast(ties: Ties, name: str, wide: str) -> None:
    for back in range(1, len(ties.shapes[name]) + 1):
        if ties.shapes[name][-back] == ties.shapes[wide][-back]:
            ties.tie(ties.axis(name, -back), ties.axis(wide, -back))


def _same_length(ties: Ties, before: str, after: str) -> None:
    old, new = ties.axes(before)[::-1], ties.axes(after)[::-1]
    for place, axis in enumerate(new):
        if place < len(old) and len(old[place]) == len(axis):
            ties.tie(old[place], axis)
        else:
            ties.freeze(axis, *old[place : place + 1])


def _tie_groups(ties: Ties, x: str, y: str, groups: int) -> None:
    first = ties.axis(x, 1).reshape(groups, -1)[:, :1]
    for name in (x, y):
        ties.tie(ties.axis(name, 1).reshape(groups, -1), first)


def _parts(ties: Ties, whole: str, parts: list[str], axis: int) -> None:
    axes = ties.axes(whole)
    axis %= len(axes)
    start = 0
    for name in parts:
        for place, elements in enumerate(ties.axes(name)):
            if place == axis:
                ties.tie(elements, axes[axis][start : start + len(elements)])
                start += len(elements)
            else:
                ties.tie(elements, axes[place])


def _axes_of(ties: Ties, node: onnx.NodeProto) -> list[int] | None:
    """The axes a node names, by attribute or by a constant input; None for neither."""
    if len(node.input) > 1 and node.input[1]:
        return ties.constant(node.input[1])
    return next((list(item.ints) for item in node.attribute if item.name == "axes"), None)


_ELEMENTWISE = (
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout", "Elu", "Equal", "Erf",
    "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LRN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu",
    "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub",
    "Sum", "Tanh", "ThresholdedRelu", "Where",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_ELEMENTWISE, elementwise),
        **dict.fromkeys(_REDUCTIONS, reduction),
        **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), pooling),
        **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), by_channel),
        **dict.fromkeys(("ConstantOfShape", "Range", "Shape", "Size"), new_tensor),
        **dict.fromkeys(("Expand", "Pad", "Tile"), repeated),
        **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), reshape),
        **dict.fromkeys(("LayerNormalization", "RMSNormalization"), layer_norm),
        **dict.fromkeys(("LogSoftmax", "Softmax"), softmax),
        "Concat": concat,
        "Constant": nothing,
        "Conv": convolution,
        "Einsum": einsum,
        "Gather": gather,
        "Gemm": gemm,
        "GroupNormalization": group_norm,
        "MatMul": matrix_product,
        "Slice": slice_,
        "Split": split,
        "Transpose": transpose,
        "Trilu": triangle,
    }
)
"""By operator; what is not here is frozen."""
