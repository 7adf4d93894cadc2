"""An ONNX file from disk to a self-contained graph that ONNX Runtime here can load, or the reason why not.

What the graph's tensors mean (rows, classes, scores) is checked by `models.compress.original`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import external_data_helper

from models.compress.errors import CompressError
from models.compress.opset import LEAST_IR, OLDEST_OPSET, check_versions, converted, opset_of

MOST_BYTES = 2**31 - 1
"""Protobuf's limit for one message."""
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc"})
"""Domains with operators that ONNX Runtime brings along."""
MAGICS = {
    b"PK\x03\x04": "a ZIP archive, as PyTorch (.pt), Keras (.keras) and NumPy (.npz) write",
    b"\x89HDF": "an HDF5 file, as Keras (.h5) writes",
    b"\x80": "a Python pickle, as scikit-learn and joblib write",
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to: run `git lfs pull`",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"<": "a web page or XML",
    b"{": "JSON text",
}
"""How other files begin that are taken for models."""


def read_graph(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """The graph, and the bytes to keep: the file's own unless it had to be made self-contained or newer.

    Raises `CompressError` for anything that is not a complete, self-contained inference graph of known operators.
    """
    content = _content(path)
    model = _parsed(path, content)
    _refuse_broken_names(path, model)
    check_versions(path, model)
    if _embed(path, model, len(content)):
        content = serialized(path, model)
    _check_rules(path, content)
    _refuse_training(path, model)
    _refuse_unknown_operators(path, model)
    if opset_of(model) in range(1, OLDEST_OPSET):
        model = converted(path, model)
        content = serialized(path, model)
        _check_rules(path, content)
    return model, content


def serialized(path: Path, model: onnx.ModelProto) -> bytes:
    """The graph's bytes, the same ones each time. Raises `CompressError` at 2 GB."""
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except Exception as error:  # of protobuf, whose classes depend on its build
        raise CompressError(f"{path}: with its weights it is 2 GB or more, which one ONNX file cannot hold") from error


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of the branches and loops inside it, and of the model's own functions."""
    pending: list[Iterable[onnx.NodeProto]] = [model.graph.node, *(function.node for function in model.functions)]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                pending += [graph.node for graph in (attribute.g, *attribute.graphs)]


def _content(path: Path) -> bytes:
    if not path.exists():
        raise CompressError(f"{path}: there is no such file")
    if not path.is_file():
        raise CompressError(f"{path}: is a folder or device; name the .onnx file itself")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CompressError(f"{path}: has {path.stat().st_size:,} bytes; ONNX files end at 2 GB, this is none")
        content = path.read_bytes()
    except OSError as error:
        raise CompressError(f"{path}: cannot be read: {error.strerror}") from error
    if not content:
        raise CompressError(f"{path}: is empty; copy or export the model again")
    return content


def _parsed(path: Path, content: bytes) -> onnx.ModelProto:
    for magic, kind in MAGICS.items():
        if content.startswith(magic):
            raise CompressError(f"{path}: is no ONNX file but {kind}; export the model to ONNX")
    if content[4:8] in (b"ORTM", b"TFL3"):
        raise CompressError(f"{path}: is in ORT or TFLite format; give the ONNX file it was made from")
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # of protobuf, whose classes depend on its build
        raise CompressError(
            f"{path}: is no ONNX file, or one that was cut off or damaged ({len(content):,} bytes); "
            "compare its size with the source's, then copy or export it again"
        ) from error
    if not model.graph.node:
        raise CompressError(f"{path}: holds no graph with operators; is it an ONNX model, and all of it?")
    if not model.opset_import or model.ir_version < LEAST_IR:
        raise CompressError(f"{path}: does not say which ONNX version it follows: it was cut off or badly exported")
    return model


def _refuse_broken_names(path: Path, model: onnx.ModelProto) -> None:
    """Protobuf hands out text that is no UTF-8 as bytes, which nothing after it expects."""
    names: list[str | bytes] = [entry.domain for entry in model.opset_import]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        names += [value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim)]
    for node in all_nodes(model):
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    names += [tensor.name for tensor in _all_tensors(model)]
    if any(isinstance(name, bytes) for name in names):
        raise CompressError(f"{path}: holds names that are no text: it is damaged; copy or export it again")


def _embed(path: Path, model: onnx.ModelProto, size: int) -> bool:
    """Take tensors that lie in other files into the graph; whether there were any.

    `onnx` itself refuses files outside the folder, links and lengths beyond a file's end.
    """
    outside = [tensor for tensor in _all_tensors(model) if external_data_helper.uses_external_data(tensor)]
    if not outside:
        return False
    size += sum(int(entry.value) for t in outside for entry in t.external_data if entry.key == "length" and entry.value)
    if size > MOST_BYTES:
        raise CompressError(f"{path}: has {size / 2**30:.1f} GB of weights; a model of 2 GB or more cannot be handled")
    try:
        for tensor in outside:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise CompressError(
            f"{path}: its weights lie in another file that cannot be used: {_first_line(error)} Put the data file "
            "where the exporter wrote it, in the model's own folder, as a plain file (no link, no absolute path)"
        ) from error
    return True


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [model.graph]
    for node in all_nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            graphs += [attribute.g, *attribute.graphs]
    for graph in graphs:
        yield from graph.initializer


def _check_rules(path: Path, content: bytes) -> None:
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise CompressError(
            f"{path}: breaks the rules of ONNX: {_first_line(error)}; copy it again if it may be damaged, or export it "
            "with a newer exporter"
        ) from error


def _refuse_unknown_operators(path: Path, model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    unknown = {
        f"{node.domain}::{node.op_type}"
        for node in all_nodes(model)
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in own
    }
    if unknown:
        raise CompressError(
            f"{path}: uses operators that ONNX Runtime does not bring along: {', '.join(sorted(unknown))}. "
            "Custom operator libraries are not loaded; export the model with standard operators"
        )


def _refuse_training(path: Path, model: onnx.ModelProto) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in all_nodes(model):
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    for node in all_nodes(model):
        if _trains(node, constants):
            raise CompressError(
                f"{path}: was exported in training mode ({node.op_type} '{node.name}' still learns or drops values): "
                "its answers would depend on the other rows or on chance. Call `model.eval()` and export again"
            )


def _trains(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    match node.op_type:
        case "BatchNormalization":
            return sum(bool(name) for name in node.output) > 1 or any(
                attribute.name == "training_mode" and attribute.i for attribute in node.attribute
            )
        case "Dropout":
            switch = constants.get(node.input[2]) if len(node.input) > 2 else None
            return switch is not None and any((*switch.raw_data, *switch.int32_data))  # a single boolean
        case _:
            return bool(node.domain == "ai.onnx.training")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
