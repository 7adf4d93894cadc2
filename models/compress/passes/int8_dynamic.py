"""Matrix products in 8 bits, with the range of the activations taken anew at each run: no calibration.

Measured on an x86 server with VNNI: products of 256 and more columns ran 1.3 to 3.4 times as fast as float32,
transformers 128 and 256 wide 1.6 to 2.4 times, about as fast as with fixed ranges; 64 columns and fewer gained little
or lost. Convolutions took 3 to 50 times as long (ConvInteger has no fast path), so they stay in float32.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx

from models.compress import graph as graphs
from models.compress import quantizer
from models.compress.errors import Inapplicable
from models.compress.step import Stage, Step
from models.compress.workbench import Workbench

LEAST_SHARE = 0.25
"""Of the weights that must be in matrices and embeddings, so that the pass makes a difference."""
LEAST_EMBEDDING = 1 << 10
"""Elements of a table of embeddings that is worth the node that unpacks its rows."""


@dataclass(frozen=True, slots=True)
class Int8Dynamic(Step):
    """MatMul, Gemm and embeddings with signed 8-bit weights and unsigned 8-bit activations."""

    name: ClassVar[str] = "int8-dynamic"
    stage: ClassVar[Stage] = Stage.PRECISION

    per_channel: bool = True
    """A scale for each column of a matrix, not one for all of it: more exact, and a few percent slower."""
    reduce_range: bool = True
    """Weights of 7 bits: for processors whose 16-bit sums would overflow, see `quantizer.saturates`."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model with its matrices and embeddings in 8 bits."""
        subject = self.prepared(model)
        return self.only(subject, bench, {node.name for node in self.layers(subject)})

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """A scale a column, then a scale a matrix. Not for models that are made of convolutions."""
        del bench
        step = cls(reduce_range=quantizer.saturates())
        subject = step.prepared(model)
        values = graphs.weights(subject)
        matrices = {name for node in step.layers(subject) for name in node.input if name in values}
        share = sum(values[name].nbytes for name in matrices) / sum(array.nbytes for array in values.values())
        if share < LEAST_SHARE:
            raise Inapplicable(
                f"only {share:.0%} of its weights are matrices or embeddings; convolutions with ranges taken at each "
                "run are slower than float32"
            )
        return [step, cls(per_channel=False, reduce_range=step.reduce_range)]

    @property
    def label(self) -> str:
        """`dyn8`: a scale a column; `dyn8t`: one a tensor."""
        return "dyn8" if self.per_channel else "dyn8t"

    def prepared(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        return quantizer.matmuls(quantizer.prepared(model))

    def layers(self, subject: onnx.ModelProto) -> Sequence[onnx.NodeProto]:
        """See `sensitivity.Layerwise`."""
        values = graphs.weights(subject)
        tables = {name for name, array in values.items() if array.ndim == 2 and array.size >= LEAST_EMBEDDING}
        products = {node.name for node in quantizer.matrix_products(subject)}
        return [
            node
            for node in subject.graph.node
            if node.name in products or (node.op_type == "Gather" and node.input[0] in tables)
        ]

    def only(self, subject: onnx.ModelProto, bench: Workbench, layers: Collection[str]) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        del bench

        def quantize(folder: Path) -> onnx.ModelProto:
            from onnxruntime import quantization

            before, after = folder / "float.onnx", folder / "int8.onnx"
            onnx.save(subject, before)
            quantization.quantize_dynamic(
                str(before),
                str(after),
                op_types_to_quantize=["MatMul", "Gather"],
                nodes_to_quantize=sorted(layers),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=quantization.QuantType.QInt8,
            )
            return onnx.load(after)

        return quantizer.finished(quantizer.worked(quantize))
