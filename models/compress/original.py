"""The model that is to be compressed: checked once, then trusted."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ValidationError

from models.calibrate import random_inputs
from models.compress.dataset import Rows
from models.compress.errors import CompressError
from models.compress.onnx_file import read_graph, serialized
from models.manifest import NAME_PATTERN, TensorSpec, describe
from models.session import ModelLoadError, ModelRunError, Session, Tensor

SCORING_ROWS, FEWEST_SCORING_ROWS = 128, 32
"""Of a batch."""
PROBE_ROWS = 3
"""A few, and another number than models have fixed axes of."""
FLOATS = frozenset({"FP16", "FP32", "FP64"})


@dataclass(frozen=True, eq=False)
class Original:
    """A trained classifier: its bytes, its tensors, and which output holds the scores."""

    name: str
    content: bytes
    """A self-contained ONNX file: no external data."""
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    """One float per class, [rows, classes]."""

    @cached_property
    def sha256(self) -> str:
        """Names the model in the cache and in every recipe."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def session(self) -> Session:
        """The model in ONNX Runtime, as it is served."""
        return Session(self.content)

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return self.output.shape[-1]

    def model(self) -> onnx.ModelProto:
        """A fresh copy of the graph."""
        return onnx.load_from_string(self.content)

    def scores(self, rows: Rows) -> NDArray[np.float32]:
        """Its output [rows, classes], float32."""
        known = self._answers.get(id(rows))
        if known is None:
            known = self._answers[id(rows)] = rows, scores_of(self.session, self.output.name, rows)
        return known[1]

    @cached_property
    def _answers(self) -> dict[int, tuple[Rows, NDArray[np.float32]]]:
        """What was asked before. By identity, and the rows are kept so that it stays theirs."""
        return {}


def read_original(path: Path, *, name: str | None = None, output: str | None = None) -> Original:
    """Read a classifier from an ONNX file; `output` names the one to keep where there are several.

    The bytes are the file's own unless tensors beside it had to be taken in, an old opset raised or outputs
    dropped. Raises `CompressError`, naming the fact and the remedy.
    """
    graph, content = read_graph(path)
    chosen = _choose(path, graph, output)
    if len(graph.graph.output) > 1:
        _keep_only(graph, chosen)
        content = serialized(path, graph)
    try:
        session = Session(content)
    except ValidationError as error:
        raise CompressError(f"{path}: {describe(error)}; export the model with named tensors") from error
    except ModelLoadError as error:
        raise CompressError(f"{path}: {error}; export the model again with standard operators") from error
    for spec in session.inputs:
        _check_input(path, spec)
    if not session.inputs:
        raise CompressError(f"{path}: has no inputs: its answer never changes; export the whole model")
    return Original(
        name=_name(path, name),
        content=content,
        inputs=session.inputs,
        output=_scores(path, session),
    )


def scores_of(session: Session, output: str, rows: Rows) -> NDArray[np.float32]:
    """A session's scores [rows, classes], float32, computed in batches on all cores.

    Nobody is timed here: one session computes in as many threads as there are cores.
    """
    cores = len(os.sched_getaffinity(0))
    size = max(FEWEST_SCORING_ROWS, min(SCORING_ROWS, -(-len(rows) // cores)))  # Some hundreds are shared out too.
    batches = [rows.take(slice(start, start + size)).inputs for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(cores) as pool:
        parts = list(pool.map(lambda batch: session.run(batch)[output], batches))
    return np.concatenate(parts).astype(np.float32)


def are_probabilities(scores: NDArray[np.float32]) -> bool:
    """Whether scores are probabilities already, not logits: none negative, each row sums to 1."""
    return bool(scores.min() >= 0.0 and np.abs(scores.sum(axis=1) - 1.0).max() < 1e-3)


def log_probabilities(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural logarithms of the class probabilities that scores stand for, [rows, classes]."""
    if are_probabilities(scores):
        return np.log(np.maximum(scores, 1e-9))
    shifted: NDArray[np.float32] = scores - scores.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _name(path: Path, name: str | None) -> str:
    name = name if name is not None else re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64]
    if not re.fullmatch(NAME_PATTERN, name):
        raise CompressError(f"'{name}' cannot name a model: use letters, digits, '.', '_' and '-' (--name)")
    return name


def _choose(path: Path, model: onnx.ModelProto, wanted: str | None) -> str:
    """The output to keep: the one wanted, the only one, or the only one that can be scores."""
    outputs = {value.name: value for value in model.graph.output}
    listed = ", ".join(f"'{name}' ({_described(value)})" for name, value in outputs.items())
    if wanted is not None:
        if wanted not in outputs:
            raise CompressError(f"{path}: has no output '{wanted}'; it has {listed or 'none'}")
        chosen = [wanted]
    else:
        chosen = list(outputs)
        if len(chosen) > 1:
            chosen = [name for name, value in outputs.items() if _may_be_scores(value)]
    if len(chosen) == 1:
        _require_tensor(path, outputs[chosen[0]])
        return chosen[0]
    for value in outputs.values():
        _require_tensor(path, value)
    raise CompressError(
        f"{path}: has {len(outputs)} outputs and no single one is plainly the scores: {listed or 'none'}. "
        "Name the one with a float per class with --output NAME"
    )


def _may_be_scores(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return tensor.elem_type in kinds and tensor.HasField("shape") and len(tensor.shape.dim) == 2


def _require_tensor(path: Path, value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value") or "tensor_type"  # none stated: ONNX Runtime infers it
    if kind != "tensor_type":
        raise CompressError(
            f"{path}: output '{value.name}' is a {_described(value)}, not a tensor of scores. Export without ZipMap: "
            "`to_onnx(model, X, options={'zipmap': False})` in skl2onnx, `zipmap=False` in onnxmltools"
        )


def _described(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind or "unknown type").removesuffix("_type")
    tensor = value.type.tensor_type
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    datatype = names.get(tensor.elem_type, "unknown")
    if not tensor.HasField("shape"):
        return f"{datatype} of unknown shape"
    dims = (dim.dim_param or (str(dim.dim_value) if dim.dim_value else "?") for dim in tensor.shape.dim)
    return f"{datatype} [{', '.join(dims)}]"


def _keep_only(model: onnx.ModelProto, output: str) -> None:
    """Drop the other outputs, in place, and what only they needed. Inputs stay: they are the model's contract."""
    graph = model.graph
    needed = {output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # ONNX keeps nodes in the order they are computed
        if needed.intersection(node.output):
            nodes.append(node)
            needed |= _reads(node)
    for field, kept in (
        (graph.node, nodes[::-1]),
        (graph.output, [value for value in graph.output if value.name == output]),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.value_info, [value for value in graph.value_info if value.name in needed]),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node reads, those its branches and loops take from outside included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {value.name for value in graph.output}
            names.update(*(_reads(inner) for inner in graph.node))
    return names


def _check_input(path: Path, spec: TensorSpec) -> None:
    if not spec.shape:
        raise CompressError(f"{path}: input '{spec.name}' states no shape; export it as [rows, ...]")
    if spec.shape[0] != -1:
        raise CompressError(
            f"{path}: input '{spec.name}' is {list(spec.shape)}: its first axis is fixed to {spec.shape[0]}, so rows "
            "cannot be batched. Export it with a dynamic first axis: `torch.onnx.export(..., dynamo=True, "
            "dynamic_shapes=({0: torch.export.Dim('rows')},))`, or `[None, ...]` as the input's shape in Keras and "
            "skl2onnx"
        )


def _scores(path: Path, session: Session) -> TensorSpec:
    """The output as [-1, classes], from what the graph states and, where it is silent, from a run."""
    spec = session.outputs[0]
    where = f"{path}: output '{spec.name}'"
    if spec.datatype not in FLOATS:
        raise CompressError(
            f"{where} holds {spec.datatype}, not scores: export the classifier with its logits or probabilities "
            "(one float per class), not with the class it chose"
        )
    answer = _probed(path, session)
    shape = spec.shape if answer is None else answer.shape
    if len(shape) != 2:
        stated = f"is {list(shape)}" if shape else "states no shape"
        raise CompressError(
            f"{where} {stated}: expected [rows, classes], one float per class. Only classifiers can be compressed; "
            "of another model, export the part that ends in class scores"
        )
    if spec.shape and spec.shape[0] != -1:
        raise CompressError(
            f"{where} is {list(spec.shape)}: its first axis is fixed, so answers cannot be told apart by row. "
            "Export the model with a dynamic first axis for inputs and outputs"
        )
    classes = shape[1]
    if classes == -1:
        raise CompressError(
            f"{where} does not state the number of classes, and no answer to random inputs could tell it; "
            "export it with a fixed last axis"
        )
    if classes < 2:
        raise CompressError(
            f"{where} holds one float a row: at least two classes are needed. Of a binary classifier, export both "
            "probabilities, [1 - p, p]"
        )
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=(-1, classes))


def _probed(path: Path, session: Session) -> Tensor | None:
    """What the model answers to a few random rows; None where it cannot take random values.

    Finds graphs that claim a free batch axis and were traced with one row.
    """
    name = session.outputs[0].name
    try:
        single = session.run(random_inputs(session.inputs, 1))[name]
    except ModelRunError:
        return None
    try:
        answer = session.run(random_inputs(session.inputs, PROBE_ROWS))[name]
    except ModelRunError as error:
        raise CompressError(
            f"{path}: runs with one row but not with {PROBE_ROWS}: a shape was fixed while exporting. "
            "Replace fixed sizes such as `x.view(1, -1)` by `x.flatten(1)` and export with a dynamic first axis"
        ) from error
    if single.shape[:1] != (1,) or answer.shape[:1] != (PROBE_ROWS,):
        raise CompressError(
            f"{path}: answers {PROBE_ROWS} rows with shape {list(answer.shape)}: expected one answer a row, "
            "[rows, classes]; export the model with a dynamic first axis"
        )
    return answer
