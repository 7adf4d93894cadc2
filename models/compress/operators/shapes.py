"""Operators that move, cut, join or count elements."""

import torch
from torch import Tensor
from torch.nn import functional

from models.compress.operators.node import Node

PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def identity(_node: Node, x: Tensor, *_rest: Tensor | None) -> Tensor:
    """Identity, and Dropout where nothing is trained."""
    return x


def shape(node: Node, x: Tensor) -> Tensor:
    """Shape, or a part of it."""
    return torch.tensor(x.shape[slice(node.get("start", 0), node.get("end"))], dtype=torch.int64)


def size(_node: Node, x: Tensor) -> Tensor:
    """Size."""
    return torch.tensor(x.numel())


def reshape(node: Node, x: Tensor, target: Tensor) -> Tensor:
    """Reshape: 0 copies the input's dimension unless it is said to mean 0."""
    sizes = target.tolist()
    if not node.get("allowzero", 0):
        sizes = [x.shape[place] if length == 0 else length for place, length in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(node: Node, x: Tensor) -> Tensor:
    """Flatten to a matrix."""
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    rows = 1
    for length in x.shape[:axis]:
        rows *= length
    return x.reshape(rows, -1)


def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Squeeze; without axes all of length 1."""
    named = node.get("axes") if axes is None else axes.tolist()
    return x.squeeze() if named is None else x.squeeze(tuple(named))


def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Unsqueeze: axes are places in the result."""
    named = node.get("axes") if axes is None else axes.tolist()
    for axis in sorted(axis % (x.ndim + len(named)) for axis in named):
        x = x.unsqueeze(axis)
    return x


def transpose(node: Node, x: Tensor) -> Tensor:
    """Transpose; without a permutation all axes are reversed."""
    return x.permute(node.get("perm") or list(reversed(range(x.ndim))))


def concat(node: Node, *inputs: Tensor) -> Tensor:
    """Concat."""
    return torch.cat(inputs, node.get("axis"))


def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split by the sizes given or in equal parts, the last of which may be smaller."""
    axis, given = node.get("axis", 0), node.get("split") if sizes is None else sizes.tolist()
    if given is None:
        return tuple(x.split(-(-x.shape[axis] // node.outputs), axis))
    return tuple(x.split(given, axis))


def slice_(
    _node: Node,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice, also backwards."""
    places = list(range(len(starts))) if axes is None else axes.tolist()
    strides = [1] * len(places) if steps is None else steps.tolist()
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), places, strides, strict=True):
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
        else:
            # Python reads -1 as the last element; ONNX, going backwards, clamps what lies before the first.
            length = x.shape[axis]
            stop = -1 if end < -length else end + length if end < 0 else end
            first = min(start + length if start < 0 else start, length - 1)
            x = x.index_select(axis, torch.arange(first, min(stop, length), step))
    return x


def gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """Gather: the axis is replaced by those of the index; negative places count from the end."""
    axis = node.get("axis", 0) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index).long()
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return functional.embedding(index, x)
    taken = x.index_select(axis, index.reshape(-1))
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """GatherElements."""
    axis = node.get("axis", 0)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index).long())


def expand(_node: Node, x: Tensor, target: Tensor) -> Tensor:
    """Expand: both ways, a 1 in the target leaves the input's length."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(target.tolist())))


def tile(_node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """Tile."""
    return x.repeat(repeats.tolist())


def pad(node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """Pad, on all axes or on those named."""
    widths, mode = pads.tolist(), node.get("mode", "constant")
    places = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
    sides = {axis: (widths[at], widths[at + len(places)]) for at, axis in enumerate(places)}
    first = min((axis for axis, pair in sides.items() if any(pair)), default=x.ndim)
    flat = [side for axis in reversed(range(first, x.ndim)) for side in sides.get(axis, (0, 0))]
    if not flat:
        return x
    if mode == "constant":
        return functional.pad(x, flat, value=0.0 if value is None else value.item())
    if mode not in PAD_MODES or first < 2:
        raise node.refuse(f"of {x.ndim - first} axes in mode '{mode}'")
    spatial = flat + [0] * (2 * (x.ndim - 2) - len(flat))
    return functional.pad(x, spatial, mode=PAD_MODES[mode])


def constant_of_shape(node: Node, target: Tensor) -> Tensor:
    """ConstantOfShape: float zeros unless a value is given."""
    value = node.get("value", torch.zeros(1))
    return torch.full(target.tolist(), value.item(), dtype=value.dtype)


def range_(_node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Range."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def trilu(node: Node, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """Trilu."""
    place = 0 if diagonal is None else int(diagonal.item())
    return torch.triu(x, place) if node.get("upper", 1) else torch.tril(x, place)
