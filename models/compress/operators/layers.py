"""Operators with weights, normalisations and pooling."""

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from models.compress.operators.node import Node

Pads = list[tuple[int, int]]
"""Before and after, for each spatial axis."""


def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv of one to three spatial axes, grouped or not."""
    spatial = x.ndim - 2
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
    strides, dilations = _windows(node, spatial)
    pads = _pads(node, x, weight.shape[2:], strides, dilations)
    x, padding = _symmetric(x, pads, 0.0)
    return function(x, weight, bias, strides, padding, dilations, node.get("group", 1))


def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Gemm: alpha A' B' + beta C."""
    product = (a.T if node.get("transA", 0) else a) @ (b.T if node.get("transB", 0) else b)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = product if alpha == 1.0 else alpha * product
    return product if c is None else product + (c if beta == 1.0 else beta * c)


def einsum(node: Node, *inputs: Tensor) -> Tensor:
    """Einsum."""
    return torch.einsum(node.get("equation"), *inputs)


def batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """BatchNormalization by the running statistics: what is trained is what is served."""
    if node.get("training_mode", 0):
        raise node.refuse("in training mode")
    return functional.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


def layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """LayerNormalization over an axis and all later ones."""
    if node.outputs > 1:
        raise node.refuse("that also gives its statistics")
    shape = x.shape[node.get("axis", -1) % x.ndim :]
    normal = functional.layer_norm(x, shape, eps=node.get("epsilon", 1e-5)) * scale
    return normal if bias is None else normal + bias


def rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """RMSNormalization over an axis and all later ones."""
    shape = x.shape[node.get("axis", -1) % x.ndim :]
    return functional.rms_norm(x, shape, eps=node.get("epsilon", 1e-5)) * scale


def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """InstanceNormalization, also over a single element, which PyTorch's own refuses."""
    variance, mean = torch.var_mean(x, tuple(range(2, x.ndim)), correction=0, keepdim=True)
    by_channel = (-1, *(1 for _ in range(2, x.ndim)))
    factor = scale.reshape(by_channel) * torch.rsqrt(variance + node.get("epsilon", 1e-5))
    return (x - mean) * factor + bias.reshape(by_channel)


def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """GroupNormalization: scale and bias by channel since opset 21, by group before."""
    groups = node.get("num_groups")
    if node.opset < 21:
        scale, bias = (part.repeat_interleave(x.shape[1] // groups) for part in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def local_response_norm(node: Node, x: Tensor) -> Tensor:
    """LRN."""
    size = node.get("size")
    return functional.local_response_norm(
        x, size, node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    )


def max_pool(node: Node, x: Tensor) -> Tensor:
    """MaxPool."""
    if node.outputs > 1:
        raise node.refuse("that also gives indices")
    spatial, window = x.ndim - 2, node.get("kernel_shape")
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[spatial - 1]
    strides, dilations = _windows(node, spatial)
    x, padding = _symmetric(x, _pads(node, x, window, strides, dilations), -inf, most=[size // 2 for size in window])
    return function(x, window, strides, padding, dilations, ceil_mode=bool(node.get("ceil_mode", 0)))


def average_pool(node: Node, x: Tensor) -> Tensor:
    """AveragePool: the mean of what lies in the window, the padding only where it is to be counted."""
    spatial, window = x.ndim - 2, node.get("kernel_shape")
    function: Callable[..., Tensor] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[spatial - 1]
    strides, dilations = _windows(node, spatial)
    if any(step != 1 for step in dilations):
        raise node.refuse("with dilations")
    pads = _pads(node, x, window, strides, dilations)
    ceil = bool(node.get("ceil_mode", 0))
    padded = functional.pad(x, _flat(pads))
    pooled = function(padded, window, strides, ceil_mode=ceil)
    if node.get("count_include_pad", 0) or not any(map(any, pads)):
        return pooled
    covered = functional.pad(torch.ones_like(x[:1, :1]), _flat(pads))
    return pooled / function(covered, window, strides, ceil_mode=ceil)


def global_average_pool(_node: Node, x: Tensor) -> Tensor:
    """GlobalAveragePool."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(_node: Node, x: Tensor) -> Tensor:
    """GlobalMaxPool."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def _windows(node: Node, spatial: int) -> tuple[list[int], list[int]]:
    """Strides and dilations."""
    ones = [1] * spatial
    return list(node.get("strides", ones)), list(node.get("dilations", ones))


def _pads(node: Node, x: Tensor, window: Sequence[int], strides: list[int], dilations: list[int]) -> Pads:
    """The padding asked for, or what `auto_pad` makes of it: as many places out as in, divided by the stride."""
    spatial, how = x.ndim - 2, node.get("auto_pad", "NOTSET")
    if how == "VALID":
        return [(0, 0)] * spatial
    if how == "NOTSET":
        pads = node.get("pads", [0] * 2 * spatial)
        return list(zip(pads[:spatial], pads[spatial:], strict=True))
    result = []
    for size, length, stride, dilation in zip(x.shape[2:], window, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (length - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        result.append((small, large) if how == "SAME_UPPER" else (large, small))
    return result


def _symmetric(x: Tensor, pads: Pads, value: float, most: Sequence[int] | None = None) -> tuple[Tensor, list[int]]:
    """What PyTorch's layers can pad by themselves, equal on both sides and at most `most`, or the input padded."""
    even = all(before == after for before, after in pads)
    if even and (most is None or all(before <= limit for (before, _), limit in zip(pads, most, strict=True))):
        return x, [before for before, _ in pads]
    return functional.pad(x, _flat(pads), value=value), [0] * len(pads)


def _flat(pads: Pads) -> list[int]:
    """In the order of `functional.pad`: the last axis first."""
    return [side for pair in reversed(pads) for side in pair]
