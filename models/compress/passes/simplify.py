"""Make the graph smaller and leave its results as they are: what no variant should carry along.

onnxslim and onnxscript fold constants, merge batch normalisation into the layer before it and drop what no output
needs; pre-processing is merged into the layer after it. Each of these is kept only if the results stay the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import onnx
import onnxslim
from onnx import shape_inference
from onnxscript import optimizer

from models.compress import graph as graphs
from models.compress.affine import merge_affine
from models.compress.errors import Inapplicable
from models.compress.sameness import same
from models.compress.step import Stage, Step
from models.compress.workbench import Workbench

TOLERANCE = 1e-5
"""Most that a score may change, as a share of the largest one."""

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]


@dataclass(frozen=True, slots=True)
class Simplify(Step):
    """The same function of the inputs in fewer nodes."""

    name: ClassVar[str] = "simplify"
    stage: ClassVar[Stage] = Stage.CLEAN

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model after each rewrite that made it smaller and left its scores as they were."""
        rewrites: tuple[Rewrite, ...] = (graphs.stripped, _slim, _optimize, merge_affine)
        simple = model
        for rewrite in rewrites:
            candidate = _tried(rewrite, simple)
            if candidate is not None and _size(candidate) < _size(simple) and same(candidate, model, bench, TOLERANCE):
                simple = candidate
        if _size(simple) >= _size(model):
            raise Inapplicable("the graph is as simple as it can be made")
        return graphs.checked(simple)

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """There is nothing to set."""
        del model, bench
        return [cls()]

    @property
    def label(self) -> str:
        """`simple`."""
        return "simple"


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # What onnxslim is given it also changes.
    return onnxslim.slim(copy)


def _optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    return graphs.stripped(optimizer.optimize(model))


def _tried(rewrite: Rewrite, model: onnx.ModelProto) -> onnx.ModelProto | None:
    """What a rewrite makes; None where ONNX refuses what it was about to make. All else it raises is a defect."""
    try:
        return rewrite(model)
    except (onnx.checker.ValidationError, shape_inference.InferenceError):
        return None


def _size(model: onnx.ModelProto) -> tuple[int, int]:
    """Nodes that compute something, then bytes."""
    return sum(node.op_type != "Constant" for node in model.graph.node), model.ByteSize()
