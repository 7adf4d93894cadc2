"""Sixteen bits instead of thirty-two.

Stored in half precision, weights take half the file, cost next to no accuracy and no time: they are unpacked at
loading (see `storage`). Computing in float16 is another matter: ONNX Runtime has few such kernels for processors
and puts casts around all else, which was measured at 0.68 to 0.97 of the speed of float32. Its kernels for
bfloat16 are fewer still. So computing in float16 is only proposed where a measurement on this host says it is fast.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import onnx

from models.compress import quantizer, storage
from models.compress.errors import Inapplicable
from models.compress.step import Stage, Step
from models.compress.weigh import latency_of
from models.compress.workbench import Workbench
from models.session import ModelLoadError, ModelRunError, Session

LEAST_SPEED = 1.05
"""Times float32 that computing in float16 must reach to be proposed: less is noise."""


@dataclass(frozen=True, slots=True)
class Half(Step):
    """Weights in 16 bits, and the computing too where that is asked for. Inputs and outputs keep their types."""

    name: ClassVar[str] = "half"
    stage: ClassVar[Stage] = Stage.PRECISION

    computed: bool = False
    """Whether activations are float16 as well."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model with its weights stored, or all of it computed, in 16 bits."""
        subject = self.prepared(model)
        if self.computed:
            return quantizer.finished(_in_float16(subject))
        return self.only(subject, bench, {node.name for node in self.layers(subject)})

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """Weights only; computing too where that is faster here than float32."""
        stored, computed = cls(), cls(computed=True)
        stored.layers(stored.prepared(model))
        try:
            halved = computed.apply(model, bench)
            before, after = (latency_of(Session(each.SerializeToString()), bench)[0] for each in (model, halved))
        except (Inapplicable, ModelLoadError, ModelRunError):  # the last: numbers beyond 65,504 become infinite
            return [stored]
        return [computed, stored] if before / after >= LEAST_SPEED else [stored]

    @property
    def label(self) -> str:
        """`half`: stored; `fp16`: computed as well."""
        return "fp16" if self.computed else "half"

    def prepared(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        return quantizer.named(quantizer.in_float(model))

    def layers(self, subject: onnx.ModelProto) -> Sequence[onnx.NodeProto]:
        """See `sensitivity.Layerwise`: whatever reads a weight that is worth storing."""
        return storage.readers(subject)

    def only(self, subject: onnx.ModelProto, bench: Workbench, layers: Collection[str]) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        del bench
        return quantizer.finished(storage.with_packed(subject, storage.read_by(subject, layers), storage.halves))


def _in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    def convert(_: object) -> onnx.ModelProto:
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16

        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        tool = ONNXModel(convert_float_to_float16(copy, keep_io_types=True))
        tool.topological_sort()  # The converter puts its casts at the end.
        return tool.model

    return quantizer.worked(convert)
