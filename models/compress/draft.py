"""A new graph behind an old signature: the original's inputs and output, and something else in between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.compress import graph as graphs
from models.compress.errors import Inapplicable
from models.compress.original import are_probabilities
from models.compress.workbench import Workbench
from models.session import Tensor

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
FEW_ROWS = 64
"""They show whether the original gives probabilities."""


@dataclass(slots=True)
class Draft:
    """A graph that grows from the original's inputs to its output."""

    bench: Workbench
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, array: Tensor) -> str:
        """The name of a new constant; floats are stored as float32."""
        stored = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"draft/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(stored, order="C"), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of a new node's output."""
        name = f"draft/{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def copied(self, node: onnx.NodeProto, names: Mapping[str, str]) -> list[str]:
        """The names of the outputs of a copy of a node, whose inputs have other names here."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"draft/{node.op_type.lower()}_{len(self.nodes)}"
        for place, name in enumerate(node.input):
            copy.input[place] = names[name] if name else ""
        for place, name in enumerate(node.output):
            copy.output[place] = f"{copy.name}_{place}" if name else ""
        self.nodes.append(copy)
        return list(copy.output)

    def numbers(self) -> str:
        """All inputs side by side, float32 [rows, features]. Raises `Inapplicable` where a length is free."""
        parts = []
        for spec in self.bench.original.inputs:
            if -1 in spec.shape[1:]:
                raise Inapplicable(f"input '{spec.name}' has no fixed size: there is no fixed number of features")
            floats = spec.name if spec.datatype == "FP32" else self.add("Cast", spec.name, to=TensorProto.FLOAT)
            parts.append(floats if len(spec.shape) == 2 else self.add("Flatten", floats, axis=1))
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def finished(self, logits: str) -> onnx.ModelProto:
        """The model that answers with these logits, or with their probabilities where the original does.

        The node that makes the logits is the last one that was added.
        """
        original = self.bench.original
        few = original.scores(self.bench.train.take(slice(0, FEW_ROWS)))
        last = self.add("Softmax", logits, axis=1) if are_probabilities(few) else logits
        value = next(each for each in original.model().graph.output if each.name == original.output.name)
        if original.output.datatype != "FP32":
            self.add("Cast", last, to=value.type.tensor_type.elem_type)
        self.nodes[-1].output[0] = value.name
        names = {spec.name for spec in original.inputs}
        inputs = [each for each in original.model().graph.input if each.name in names]
        graph = helper.make_graph(self.nodes, original.name, inputs, [value], self.constants)
        domains = {node.domain for node in self.nodes}
        imports = [helper.make_opsetid("", OPSET)]
        if "ai.onnx.ml" in domains:
            imports.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
        return graphs.checked(graphs.stripped(helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)))
