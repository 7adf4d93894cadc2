"""Operators of this runtime in place of several standard ones, decided now and not at each start.

ONNX Runtime fuses while it loads, and so it does for every variant: what is stored fused was measured to load in
0.6 to 0.97 of the time and to run no faster. The exception is attention, of which the runtime's own tool for
transformers recognises forms that its loader does not; whether that pays must be measured each time.

Only fusions that any processor can run are stored. Layouts for this host's vector units are left to the loader,
which knows the host: `extended`, not `all`.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import onnx

from models.compress import graph as graphs
from models.compress.errors import Inapplicable
from models.compress.quantizer import silence
from models.compress.sameness import same
from models.compress.step import Stage, Step
from models.compress.workbench import Workbench
from models.session import FATAL, onnxruntime

TOLERANCE = 1e-3
"""Most that a score may change, as a share of the largest one: GELU and sums in another order."""
LARGEST_GROWTH = 1.05
"""Times its bytes that a model may have afterwards. Weights that are stored packed would be unpacked by this."""
FUSED_DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Fuse(Step):
    """The graph as the runtime would make it while loading, or as its tool for transformers does."""

    name: ClassVar[str] = "fuse"
    stage: ClassVar[Stage] = Stage.FUSE

    tool: Literal["loader", "transformers"] = "loader"
    level: Literal["basic", "extended"] = "extended"
    """How far the loader goes: `basic` keeps to standard operators."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The fused model. Raises `Inapplicable` where nothing can be fused or the answers change."""
        with tempfile.TemporaryDirectory(prefix="gearshift-") as folder, silence():
            source = Path(folder, "source.onnx")
            onnx.save(model, source)
            made = _for_transformers(source) if self.tool == "transformers" else _as_loaded(source, self.level)
        fused = graphs.stripped(made)
        del fused.graph.value_info[:]
        if len(fused.graph.node) >= len(model.graph.node):
            raise Inapplicable("the runtime finds nothing to fuse")
        if fused.ByteSize() > LARGEST_GROWTH * model.ByteSize():
            raise Inapplicable("fusing would unpack weights that are stored packed, and the file would only grow")
        if not same(fused, model, bench, TOLERANCE):
            raise Inapplicable("the answers change when it is fused")
        return fused

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """The tool for transformers where the model looks like one, and the loader's own work."""
        del bench
        if any(node.domain == FUSED_DOMAIN and node.op_type.startswith("Fused") for node in model.graph.node):
            raise Inapplicable("it is fused already")
        attends = {"Softmax", "LayerNormalization"} <= {node.op_type for node in model.graph.node}
        return [cls("transformers"), cls()] if attends else [cls()]

    @property
    def label(self) -> str:
        """`fused`, or `fused.transformer`."""
        return "fused.transformer" if self.tool == "transformers" else "fused"


def _as_loaded(source: Path, level: Literal["basic", "extended"]) -> onnx.ModelProto:
    """What the runtime makes of a file while loading it."""
    ort = onnxruntime()
    options, target = ort.SessionOptions(), source.with_name("fused.onnx")
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if level == "basic" else levels.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = FATAL
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Inapplicable(f"ONNX Runtime cannot store what it loaded: {graphs.first_line(error)}") from error
    return onnx.load(target)


def _for_transformers(source: Path) -> onnx.ModelProto:
    """The graph after the runtime's tool for transformers. Raises `Inapplicable` where it cannot read it."""
    onnxruntime()
    from onnxruntime.transformers import optimizer

    try:
        # Level 0: no session of its own, whose choices would be this host's. Heads and width are found in the graph.
        made: onnx.ModelProto = optimizer.optimize_model(
            str(source), "bert", num_heads=0, hidden_size=0, opt_level=0
        ).model
    except Exception as error:
        raise Inapplicable(f"the tool for transformers cannot read it: {graphs.first_line(error)}") from error
    return made
