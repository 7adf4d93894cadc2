# mypy: allow-subclassing-any
"""An ONNX graph as a PyTorch module: trained as it is, then written back into the same file.

Nothing is converted and nothing exported again, so a trained graph has the nodes and names it had before.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from models.compress.errors import Inapplicable
from models.compress.graph import ONNX_DOMAINS, opset, weights, with_weights
from models.compress.operators.node import Node, Operator, node_of
from models.compress.operators.table import OPERATORS

WEIGHT_PLACES: Mapping[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "Einsum": (0, 1),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
}
"""Inputs of operators that hold what training taught; statistics, bounds and divisors are not among them."""
CARRIERS = frozenset({"Concat", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""What only moves elements: a constant before one of them is a weight if what comes out is."""
MASK_SIZE = 1e4
"""Constants with larger values are masks of attention, not weights."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A node, bound to what computes it."""

    operator: Operator
    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    spent: tuple[str, ...]
    """Tensors that nobody reads after it."""


class TrainableGraph(nn.Module):
    """Interprets a graph. Float weights are parameters; other constants, and running statistics, stay.

    On the processor, in float32. Every node is computed as it would be when served: dropout is off, and
    batch normalisation goes by its statistics. Raises `Inapplicable`, naming the operator, for a graph that
    is made of anything else than `OPERATORS`.
    """

    def __init__(self, model: onnx.ModelProto, output: str | None = None) -> None:
        """`output` names the scores; the first float output where it is left out."""
        super().__init__()
        self.model = model
        self.output = output or _score_output(model.graph)
        self.logits = _logits(model.graph, self.output)
        constants = _constants(model)
        calls = _calls(model, self.output, constants)
        names = _weight_names(model.graph, constants)
        if not names:
            raise Inapplicable("the model has no float32 weights to train")
        self.names = tuple(sorted(names))
        self.weights = nn.ParameterList(nn.Parameter(constants.pop(name)) for name in self.names)
        self._statistics: dict[str, Tensor] = {}
        """What `settle` measured, by the names of initializers."""
        self._constants, self._calls = _folded(calls, constants, frozenset(names))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [rows, classes]: what a closing softmax is given, or the scores where there is none."""
        return self._value(self.logits, inputs)

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The model's own output [rows, classes]."""
        return self._value(self.output, inputs)

    def weight(self, name: str) -> nn.Parameter:
        """The parameter that stands for an initializer. Raises `KeyError` for one that is not trained."""
        if name not in self.names:
            raise KeyError(name)
        return self.weights[self.names.index(name)]

    def settle(self, inputs: Mapping[str, Tensor]) -> None:
        """Make the running statistics of batch normalisations those of these rows, from the first layer to the last.

        For a graph whose channels are other ones than those the statistics were taken of.
        """
        shared = Counter(name for call in self._calls for name in call.inputs)
        values = self._given(inputs)
        with torch.no_grad():
            for call in self._calls:
                statistics = call.inputs[3:5]
                if call.node.operator == "BatchNormalization" and all(
                    name in self._constants and shared[name] == 1 for name in statistics
                ):
                    x = values[call.inputs[0]]
                    taken = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
                    self._statistics.update(zip(statistics, taken[::-1], strict=True))
                    values.update(self._statistics)
                _compute(call, values)
        self._constants.update(self._statistics)

    def written(self) -> onnx.ModelProto:
        """A copy of the model with the weights as they are now."""
        now = {**dict(zip(self.names, self.weights, strict=True)), **self._statistics}
        return with_weights(self.model, {name: tensor.detach().numpy().copy() for name, tensor in now.items()})

    def _value(self, wanted: str, inputs: Mapping[str, Tensor]) -> Tensor:
        values = self._given(inputs)
        for call in self._calls:
            if wanted in values:
                break
            _compute(call, values)
            for name in call.spent:
                if name != wanted:
                    values.pop(name, None)
        return values[wanted]

    def _given(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**self._constants, **inputs, **dict(zip(self.names, self.weights, strict=True))}


def _compute(call: _Call, values: dict[str, Tensor]) -> None:
    result = call.operator(call.node, *(values[name] if name else None for name in call.inputs))
    parts = result if isinstance(result, tuple) else (result,)
    values.update(pair for pair in zip(call.outputs, parts, strict=False) if pair[0])


def _score_output(graph: onnx.GraphProto) -> str:
    for output in graph.output:
        if output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            return str(output.name)
    raise Inapplicable("the model has no float32 output to train by")


def _logits(graph: onnx.GraphProto, output: str) -> str:
    """What the closing softmax is given."""
    producers = {name: node for node in graph.node for name in node.output}
    name = output
    while name in producers and producers[name].op_type in ("Identity", "Cast"):
        name = producers[name].input[0]
    if name in producers and producers[name].op_type == "Softmax":
        return str(producers[name].input[0])
    return output


def _constants(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Initializers and the values of Constant nodes; those of types PyTorch lacks are left out."""
    return {name: torch.tensor(array) for name, array in weights(model).items() if array.dtype.kind in "fiub"}


def _weight_names(graph: onnx.GraphProto, constants: Mapping[str, Tensor]) -> set[str]:
    """The constants that training may change."""
    wanted: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in CARRIERS:
            places: Sequence[int] = range(len(node.input)) if wanted.intersection(node.output) else ()
        else:
            places = WEIGHT_PLACES.get(node.op_type, ())
        wanted.update(node.input[place] for place in places if place < len(node.input))
    return {name for name in wanted if name in constants and _is_weight(constants[name])}


def _is_weight(tensor: Tensor) -> bool:
    """Whether a constant in the place of a weight is one: a single number there is a factor somebody chose."""
    return tensor.dtype == torch.float32 and tensor.numel() > 1 and bool(tensor.abs().max() < MASK_SIZE)


def _calls(model: onnx.ModelProto, output: str, constants: Mapping[str, Tensor]) -> list[_Call]:
    """The nodes the output depends on, in order; those that are constants left out."""
    version = opset(model)
    needed, kept = {output}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output) and node.output[0] not in constants:
            needed.update(node.input)
            kept.append(node)
    calls: list[_Call] = []
    read: set[str] = set()
    # From the end: a tensor met for the first time is read there for the last time.
    for node in kept:
        if node.op_type not in OPERATORS or node.domain not in ONNX_DOMAINS:
            raise Inapplicable(f"cannot train through operator {node.domain or 'ai.onnx'}.{node.op_type}")
        spent = tuple(name for name in dict.fromkeys(node.input) if name and name not in read)
        read.update(node.input)
        calls.append(
            _Call(OPERATORS[node.op_type], node_of(node, version), tuple(node.input), tuple(node.output), spent)
        )
    return calls[::-1]


def _folded(
    calls: Sequence[_Call], constants: dict[str, Tensor], weights: frozenset[str]
) -> tuple[dict[str, Tensor], list[_Call]]:
    """Compute once what depends on constants alone."""
    left = []
    for call in calls:
        if weights.isdisjoint(call.inputs) and all(name in constants for name in call.inputs if name):
            _compute(call, constants)
        else:
            left.append(call)
    return constants, left
