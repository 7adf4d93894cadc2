"""Weights in 4 or 8 bits, activations as they are.

Two ways to unpack them. At loading (see `storage`): any operator's weights, a quarter or an eighth of the file, the
speed of float32 and its use of memory. At each run (the MatMulNBits operator): matrices only, and memory stays small.
On an x86 server with VNNI that ran at 0.95 to 1.2 of the speed of float32 in a transformer 256 wide, at 0.6 to 0.8 in
one 32 wide; 8 bits without 8-bit activations (`accuracy_level` 0) took six times as long as float32. So it is only
proposed for large matrices, and with 8-bit activations inside the operator.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx

from models.compress import graph as graphs
from models.compress import quantizer, storage
from models.compress.errors import Inapplicable
from models.compress.step import Stage, Step
from models.compress.workbench import Workbench

LEAST_MATRIX = 1 << 16
"""Weights of the largest matrix that make unpacking at each run worth a try."""
INT4_OPSET = 21
"""The first version of the operators that knows tensors of 4 bits."""
INT8_ACTIVATIONS = 4
"""The operator's `accuracy_level` that multiplies in 8 bits."""


@dataclass(frozen=True, slots=True)
class WeightOnly(Step):
    """Blocks of weights as whole numbers with a common scale, rounded to the nearest."""

    name: ClassVar[str] = "weight-only"
    stage: ClassVar[Stage] = Stage.PRECISION

    bits: int = 8
    """4 or 8."""
    block: int = 64
    """Weights that share a scale; a power of two, 16 or more."""
    each_run: bool = False
    """Unpacked by the operator at each run, not once at loading."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model with its weights in blocks of whole numbers."""
        subject = self.prepared(model)
        return self.only(subject, bench, {node.name for node in self.layers(subject)})

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """Unpacked at loading, with 8 and with 4 bits; at each run as well where matrices are large."""
        del bench
        found = [cls(bits=8, block=64), cls(bits=4, block=32)]
        found[0].layers(found[0].prepared(model))
        running = cls(bits=4, block=32, each_run=True)
        try:
            subject = running.prepared(model)
            values = graphs.weights(subject)
            sizes = [values[node.input[1]].size for node in running.layers(subject)]
        except Inapplicable:
            return found
        return [*found, running, cls(bits=8, block=32, each_run=True)] if max(sizes) >= LEAST_MATRIX else found

    @property
    def label(self) -> str:
        """`w8`, `w4`: unpacked at loading; `w8run`, `w4run`: at each run."""
        return f"w{self.bits}run" if self.each_run else f"w{self.bits}"

    def prepared(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        if self.each_run:
            return quantizer.matmuls(quantizer.prepared(model))
        subject = quantizer.named(quantizer.in_float(model))
        return graphs.raised(subject, INT4_OPSET) if self.bits == 4 else subject

    def layers(self, subject: onnx.ModelProto) -> Sequence[onnx.NodeProto]:
        """See `sensitivity.Layerwise`."""
        return quantizer.matrix_products(subject) if self.each_run else storage.readers(subject)

    def only(self, subject: onnx.ModelProto, bench: Workbench, layers: Collection[str]) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        del bench
        if self.each_run:
            return quantizer.finished(self._packed_matrices(subject, layers))
        pack = storage.blocks(self.bits, self.block)
        return quantizer.finished(storage.with_packed(subject, storage.read_by(subject, layers), pack))

    def _packed_matrices(self, subject: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
        def pack(_: Path) -> onnx.ModelProto:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            copy = onnx.ModelProto()
            copy.CopyFrom(subject)
            tool = MatMulNBitsQuantizer(
                copy,
                bits=self.bits,
                block_size=self.block,
                is_symmetric=True,
                accuracy_level=INT8_ACTIVATIONS,
                nodes_to_exclude=[node.name for node in copy.graph.node if node.name not in layers],
            )
            tool.process()
            return tool.model.model

        return quantizer.worked(pack)
