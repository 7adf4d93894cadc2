"""Convolutions and matrix products in 8 bits, with ranges of activations fixed beforehand on training rows.

Weights: signed, a scale a channel. Activations: unsigned, a scale a tensor. What is changed was settled by
measuring, on an x86 server with VNNI, in times of the float32 speed:

- Conv 3 x 3: 2.3 to 3.1; 1 x 1: 0.85 to 1.6; depthwise or grouped alone: 0.5 to 0.85, but in a chain of separable
  convolutions leaving them in float32 cost more conversions than it saved (1.6 with them, 1.2 without).
- Relu and Clip after them must be marked as well, or activations go back to float32 between layers: a residual net
  went from 2.7 to 3.1 for one row. So must sums of convolutions, poolings and joins.
- Gemm, MatMul: 0.6 with 64 columns to 3 with 768. Their results are left in float32, which is both faster and more
  exact: a transformer 256 wide went from 1.7 to 1.9.
- Products of two activations, LayerNorm, Softmax, biases of matrix products and pre-processing stay in float32: they
  gained nothing or lost.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import onnx

from models.compress import graph as graphs
from models.compress import packing, quantizer
from models.compress.errors import Inapplicable
from models.compress.sensitivity import Sensitivity, sensitivities
from models.compress.step import Stage, Step
from models.compress.workbench import Workbench
from models.session import Tensor

LAYERS = ("Conv", "Gemm", "MatMul")
FOLLOWERS = ("Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
"""Changed where they stand between changed convolutions, so that activations stay in 8 bits."""
METHODS: Mapping[str, str] = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
PERCENTILE = 99.99
"""Share of values, percent, that the range by percentile holds."""
BATCH_ROWS = 64
MOMENT_ROWS = 256
"""Training rows that say how weights of 4 bits are rounded."""


@dataclass(frozen=True, slots=True)
class Int8Static(Step):
    """Static quantization in the QDQ format, the most sensitive layers left in float32 by measurement."""

    name: ClassVar[str] = "int8-static"
    stage: ClassVar[Stage] = Stage.PRECISION

    calibration: str = "minmax"
    """How ranges follow from values: `minmax` holds all, `percentile` nearly all, `entropy` what loses least."""
    keep_float: float = 0.0
    """Share of the layers to leave in float32, those that lose most when changed alone; at least one if it is > 0."""
    reduce_range: bool = True
    """Weights of 7 bits: for processors whose 16-bit sums would overflow, see `quantizer.saturates`."""
    rows: int = 512
    """Training rows that settle the ranges."""
    weight_bits: int = 8
    """8, or 4: half the file again at the same speed, see `packing`."""

    def __post_init__(self) -> None:
        if self.calibration not in METHODS:
            raise ValueError(f"calibration '{self.calibration}': expected one of {', '.join(METHODS)}")
        if not 0 <= self.keep_float < 1:
            raise ValueError(f"keep_float {self.keep_float}: expected a share from 0 to less than 1")
        if self.weight_bits not in (4, 8):
            raise ValueError(f"weight_bits {self.weight_bits}: expected 4 or 8")

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model with its layers in 8 bits, save those that `kept` names."""
        subject = self.prepared(model)
        changed = {node.name for node in self.layers(subject)}
        if self.keep_float:
            changed -= {layer.layer for layer in self.kept(model, bench)}
        whole = self.only(subject, bench, changed)
        if self.weight_bits == 8:
            return whole
        return quantizer.finished(packing.in_four_bits(whole, batches_of(bench, MOMENT_ROWS)))

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """All layers; all but the most sensitive ones; other ways to find the ranges."""
        del bench
        step = cls(reduce_range=quantizer.saturates())
        count = len(step.layers(step.prepared(model)))
        careful = [replace(step, keep_float=0.15)] if count > 2 else []
        others = [replace(step, calibration=method) for method in ("percentile", "entropy")]
        return [step, replace(step, weight_bits=4), *careful, *others]

    @property
    def label(self) -> str:
        """`int8`, with `w4` for weights of 4 bits, the first letter of another calibration, the percentage kept:
        `int8w4pk15`.
        """
        method = "" if self.calibration == "minmax" else self.calibration[0]
        kept = f"k{round(self.keep_float * 100)}" if self.keep_float else ""
        return f"int8{'w4' if self.weight_bits == 4 else ''}{method}{kept}"

    def kept(self, model: onnx.ModelProto, bench: Workbench) -> tuple[Sensitivity, ...]:
        """The layers that are left in float32, the most sensitive first."""
        table = sensitivities(replace(self, keep_float=0.0, weight_bits=8), model, bench)
        count = min(len(table) - 1, max(1, round(self.keep_float * len(table)))) if self.keep_float else 0
        if self.keep_float and not count:
            raise Inapplicable("it has a single layer to change: none can be left in float32")
        return tuple(sorted(table, key=lambda layer: -layer.loss)[:count])

    def prepared(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        return quantizer.prepared(model)

    def layers(self, subject: onnx.ModelProto) -> Sequence[onnx.NodeProto]:
        """See `sensitivity.Layerwise`: layers with constant weights."""
        values = graphs.weights(subject)
        found = [node for node in subject.graph.node if node.op_type in LAYERS and node.input[1] in values]
        if not found:
            raise Inapplicable("it has no convolution or matrix product with constant weights")
        return found

    def only(self, subject: onnx.ModelProto, bench: Workbench, layers: Collection[str]) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        nodes = [*layers, *_followers(subject, layers)]
        key = self._ranges_key(subject)

        def quantize(folder: Path) -> onnx.ModelProto:
            from onnxruntime import quantization

            before, after, ranges = folder / "float.onnx", folder / "int8.onnx", folder / "ranges.json"
            onnx.save(subject, before)
            if key in bench.known:
                ranges.write_text(bench.known[key], encoding="utf-8")
            quantization.quantize_static(
                str(before),
                str(after),
                _Batches(bench, self.rows),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=[*LAYERS, *FOLLOWERS],
                nodes_to_quantize=sorted(nodes),
                per_channel=True,
                reduce_range=self.reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[METHODS[self.calibration]],
                calibration_cache_path=str(ranges),
                extra_options={
                    "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                    "CalibStridedMinMax": 1,  # One batch at a time: else the activations of all are held at once.
                    "CalibPercentile": PERCENTILE,
                    "CalibTensorRangeSymmetric": False,
                },
            )
            bench.known[key] = ranges.read_text(encoding="utf-8")
            return onnx.load(after)

        return quantizer.finished(quantizer.worked(quantize))

    def _ranges_key(self, subject: onnx.ModelProto) -> str:
        digest = hashlib.sha256(subject.SerializeToString(deterministic=True)).hexdigest()
        return f"ranges {self.calibration} {self.rows} {digest}"


def batches_of(bench: Workbench, rows: int) -> list[dict[str, Tensor]]:
    """The first training rows, in batches."""
    chosen = bench.train.take(slice(0, rows))  # Shuffled when the data was split.
    return [dict(chosen.take(slice(start, start + BATCH_ROWS)).inputs) for start in range(0, len(chosen), BATCH_ROWS)]


class _Batches:
    """Training rows as ONNX Runtime's calibration reads them."""

    def __init__(self, bench: Workbench, rows: int) -> None:
        self._batches = batches_of(bench, rows)
        self._left: Iterator[dict[str, Tensor]] = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these batches."""
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch; None after the last."""
        return next(self._left, None)


def _followers(subject: onnx.ModelProto, layers: Collection[str]) -> list[str]:
    """Nodes that carry on what changed convolutions give, through any number of such nodes."""
    found: list[str] = []
    quantized: set[str] = set()
    values = graphs.weights(subject)
    for node in subject.graph.node:
        if node.op_type == "Conv" and node.name in layers:
            quantized.update(node.output)
        elif node.op_type in FOLLOWERS and not quantized.isdisjoint(node.input):
            if node.op_type == "Add" and not values.keys().isdisjoint(node.input):
                continue  # A constant that is added is no sum of two branches.
            found.append(node.name)
            quantized.update(node.output)
    return found
