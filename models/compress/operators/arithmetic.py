"""Operators that compute element by element, and those that reduce axes."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from models.compress.operators.node import TORCH_TYPES, Node, Operator


def unary(function: Callable[[Tensor], Tensor]) -> Operator:
    """An operator without attributes of one input."""
    return lambda _node, x: function(x)


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator without attributes of two inputs that are broadcast."""
    return lambda _node, a, b: function(a, b)


def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs that are broadcast."""
    return lambda _node, *inputs: reduce(function, inputs)


def mean(_node: Node, *inputs: Tensor) -> Tensor:
    """Mean of the inputs, element by element."""
    return reduce(torch.add, inputs) / len(inputs)


def divide(_node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Div: whole numbers are divided towards 0."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def modulo(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Mod: the sign is the divisor's, or with `fmod` the dividend's."""
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


def power(_node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Pow: the result has the type of the base."""
    return torch.pow(a, b).to(a.dtype)


def where(_node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Where."""
    return torch.where(condition, a, b)


def cast(node: Node, x: Tensor) -> Tensor:
    """Cast."""
    target = TORCH_TYPES.get(node.get("to"))
    if target is None:
        raise node.refuse(f"to type {node.get('to')}")
    return x.to(target)


def cast_like(_node: Node, x: Tensor, like: Tensor) -> Tensor:
    """CastLike."""
    return x.to(like.dtype)


def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """LeakyRelu."""
    return functional.leaky_relu(x, node.get("alpha", 0.01))


def prelu(_node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """PRelu: the slope is broadcast to the input."""
    return torch.where(x < 0, x * slope, x)


def elu(node: Node, x: Tensor) -> Tensor:
    """Elu."""
    return functional.elu(x, node.get("alpha", 1.0))


def celu(node: Node, x: Tensor) -> Tensor:
    """Celu."""
    return functional.celu(x, node.get("alpha", 1.0))


def selu(node: Node, x: Tensor) -> Tensor:
    """Selu, with the standard's rounded constants."""
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return gamma * functional.elu(x, alpha)


def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip: the bounds are inputs; attributes until opset 10, which some files still say."""
    bounds = (node.get("min") if low is None else low, node.get("max") if high is None else high)
    if bounds[0] is not None:
        x = torch.maximum(x, torch.as_tensor(bounds[0], dtype=x.dtype))
    if bounds[1] is not None:
        x = torch.minimum(x, torch.as_tensor(bounds[1], dtype=x.dtype))
    return x


def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """HardSigmoid."""
    return (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0.0, 1.0)


def gelu(node: Node, x: Tensor) -> Tensor:
    """Gelu, exact or by tanh."""
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """ThresholdedRelu."""
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


def softmax(node: Node, x: Tensor) -> Tensor:
    """Softmax."""
    return over_axis(node, x, functional.softmax)


def log_softmax(node: Node, x: Tensor) -> Tensor:
    """LogSoftmax."""
    return over_axis(node, x, functional.log_softmax)


def over_axis(node: Node, x: Tensor, function: Callable[..., Tensor]) -> Tensor:
    """Along one axis; before opset 13 along this and all later axes together."""
    if node.opset >= 13:
        return function(x, dim=node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim
    return function(x.flatten(axis), dim=-1).reshape(x.shape)


def reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """An operator that reduces axes, which are an attribute or, since opset 13 or 18, an input."""

    def operator(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        named = node.get("axes") if axes is None else axes.tolist()
        if not named and node.get("noop_with_empty_axes", 0):
            return x
        return function(x, list(named or range(x.ndim)), bool(node.get("keepdims", 1)))

    return operator


def arg_max(node: Node, x: Tensor) -> Tensor:
    """ArgMax; of equals the first."""
    if node.get("select_last_index", 0):
        raise node.refuse("with select_last_index")
    return x.argmax(node.get("axis", 0), bool(node.get("keepdims", 1)))
