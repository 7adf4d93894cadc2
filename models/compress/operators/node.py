"""What an operator needs to know of the node it computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from models.compress.errors import Inapplicable

TORCH_TYPES: Mapping[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node: its operator, its attributes as plain values, and the operator set they are to be read by."""

    operator: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    """How many outputs it names."""

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or what the standard says where it is left out."""
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> Inapplicable:
        """The error for a use of the operator that nobody trains."""
        return Inapplicable(f"cannot train through {self.operator} {what}")


Operator = Callable[..., Tensor | tuple[Tensor, ...]]
"""Takes the node and its inputs in order, None for one that is left out."""


def node_of(proto: onnx.NodeProto, opset: int) -> Node:
    """The node of a graph, its attributes decoded."""
    attributes = {attribute.name: _plain(attribute) for attribute in proto.attribute}
    return Node(proto.op_type, attributes, opset, len(proto.output))


def tensor_of(proto: onnx.TensorProto) -> Tensor:
    """An ONNX tensor as a PyTorch tensor of its own memory. Raises `Inapplicable` for types PyTorch lacks."""
    if proto.data_type not in TORCH_TYPES:
        kind = onnx.TensorProto.DataType.Name(proto.data_type)
        raise Inapplicable(f"cannot train a graph with a tensor of {kind} ('{proto.name}')")
    return torch.tensor(numpy_helper.to_array(proto), dtype=TORCH_TYPES[proto.data_type])


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return tensor_of(value)
    return value
