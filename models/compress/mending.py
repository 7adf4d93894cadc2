"""What nodes say about lengths, mended after axes became shorter."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.compress.cost import Shape, attribute
from models.compress.errors import Inapplicable
from models.compress.graph import opset, unused_name


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """The shapes of all tensors before and after."""

    before: Mapping[str, Shape]
    after: Mapping[str, Shape]
    free: Mapping[str, frozenset[int]]
    """The axes that depend on the number of rows."""
    constants: Mapping[str, NDArray[np.generic]]

    def changed(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads or writes a tensor that became shorter."""
        names = (name for name in (*node.input, *node.output) if name in self.before)
        return any(self.before[name] != self.after[name] for name in names)


def mended(model: onnx.ModelProto, lengths: Lengths) -> None:
    """Put right numbers of groups, targets of Reshape and Expand, and sizes of Split, in place."""
    for node in list(model.graph.node):
        if not lengths.changed(node):
            continue
        match node.op_type:
            case "Conv":
                _groups(node, "group", lengths)
            case "GroupNormalization":
                _groups(node, "num_groups", lengths)
            case "Reshape":
                _reshape(model, node, lengths)
            case "Split":
                _split(model, node, lengths)
            case "Expand":
                _expand(model, node, lengths)


def _groups(node: onnx.NodeProto, name: str, lengths: Lengths) -> None:
    """Groups go as a whole, so their number shrinks as the channels do."""
    groups = attribute(node, name, 1)
    if groups > 1:
        x = node.input[0]
        _set(node, name, lengths.after[x][1] * groups // lengths.before[x][1])


def _reshape(model: onnx.ModelProto, node: onnx.NodeProto, lengths: Lengths) -> None:
    after = lengths.after[node.output[0]]
    stated = lengths.constants.get(node.input[1])
    if stated is None:
        target = _free_target(node, lengths)
    else:
        # 0 and -1 say the same of fewer channels.
        target = [length if said > 0 else int(said) for said, length in zip(stated.tolist(), after, strict=True)]
    node.input[1] = _added(model, f"{node.output[0]}.shape", np.array(target, np.int64))


def _free_target(node: onnx.NodeProto, lengths: Lengths) -> list[int]:
    """A constant for a target that was computed: one free axis is -1, others must be where they were."""
    x, y = node.input[0], node.output[0]
    free = sorted(lengths.free[y])
    copied = {axis for axis in free if axis in lengths.free[x] and lengths.before[x][axis] == lengths.before[y][axis]}
    if len(free) == 1:
        copied.clear()
    if len(free) - len(copied) > 1:
        raise Inapplicable(f"the shape of '{y}' is computed and has more than one free axis")
    return [0 if axis in copied else -1 if axis in free else length for axis, length in enumerate(lengths.after[y])]


def _split(model: onnx.ModelProto, node: onnx.NodeProto, lengths: Lengths) -> None:
    axis = attribute(node, "axis", 0)
    sizes = [lengths.after[name][axis] for name in node.output]
    if opset(model) < 13:
        _set(node, "split", sizes)
        return
    _set(node, "num_outputs", None)
    del node.input[1:]
    node.input.append(_added(model, f"{node.output[0]}.split", np.array(sizes, np.int64)))


def _expand(model: onnx.ModelProto, node: onnx.NodeProto, lengths: Lengths) -> None:
    """Where the length stays as it is the target says 1, which any length satisfies."""
    name = node.output[0]
    before, after = lengths.before[node.input[0]][::-1], lengths.before[name][::-1]
    (rank,) = lengths.before[node.input[1]]
    same = np.array([back < len(before) and before[back] == after[back] for back in range(rank)][::-1])
    stated = lengths.constants.get(node.input[1])
    if stated is not None:
        node.input[1] = _added(model, f"{name}.shape", np.where(same, 1, stated).astype(np.int64))
        return
    keep, one = _added(model, f"{name}.same", same), _added(model, f"{name}.one", np.array([1], np.int64))
    target = unused_name(model, f"{name}.shape")
    place = next(at for at, other in enumerate(model.graph.node) if name in other.output)
    model.graph.node.insert(place, onnx.helper.make_node("Where", [keep, one, node.input[1]], [target]))
    model.graph.node[place + 1].input[1] = target


def _set(node: onnx.NodeProto, name: str, value: int | list[int] | None) -> None:
    """Replace an attribute; None takes it away."""
    for item in list(node.attribute):
        if item.name == name:
            node.attribute.remove(item)
    if value is not None:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def _added(model: onnx.ModelProto, stem: str, array: NDArray[np.generic]) -> str:
    name = unused_name(model, stem)
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name
