"""What passes ask of an ONNX graph, and do to it, time and again.

Functions leave the model they are given as it was, unless they say otherwise.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference, version_converter

from models.compress.errors import Inapplicable
from models.session import ModelLoadError, Session

Array = NDArray[Any]

ONNX_DOMAINS = ("", "ai.onnx")
"""Both names of the standard operators."""


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    """The constants of the main graph by tensor name: initializers, sparse ones made dense, and `Constant` nodes."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found |= {sparse.values.name: _dense(sparse) for sparse in model.graph.sparse_initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in ONNX_DOMAINS:
            value = _constant(node)
            if value is not None:
                found[node.output[0]] = value
    return found


def with_weights(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy with these constants, all of them initializers; names that are new are added.

    Shapes and types may change: what shape inference noted about the graph is dropped then.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    drop(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in values])
    drop(graph.sparse_initializer, [tensor for tensor in graph.sparse_initializer if tensor.values.name in values])
    drop(graph.node, [node for node in graph.node if node.op_type == "Constant" and node.output[0] in values])
    graph.initializer.extend(numpy_helper.from_array(_whole(array), name) for name, array in values.items())
    del graph.value_info[:]
    return copy


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor of the main graph."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, once each; a node reads what its subgraphs read from outside."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(_reads(node)):
            found.setdefault(name, []).append(node)
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that the graph is written in. Raises `Inapplicable` without one."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
    if not versions:
        raise Inapplicable("the model does not say which version of the ONNX operators it uses")
    return int(max(versions))


def raised(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The model in that version of the operators, or as it is where it is no older. Raises `Inapplicable`."""
    if opset(model) >= version:
        return model
    try:
        return version_converter.convert_version(model, version)
    except Exception as error:  # whatever the converter's C++ side throws
        raise Inapplicable(f"opset {opset(model)} cannot be raised to {version}: {first_line(error)}") from error


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that states the type and shape of each tensor as far as they can be told."""
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise Inapplicable(f"its shapes contradict each other: {first_line(error)}") from error


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, known to be valid and to load. Raises `Inapplicable`, saying what is wrong."""
    try:
        onnx.checker.check_model(model, full_check=True)
        Session(model.SerializeToString())
    except (onnx.checker.ValidationError, shape_inference.InferenceError, ModelLoadError) as error:
        raise Inapplicable(f"the result is not a valid model: {first_line(error)}") from error
    return model


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without what tools note about their sources: texts, stack traces, paths of the maker's machine."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in (copy, *copy.functions, *_parts(copy.graph)):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for function in copy.functions:
        for node in function.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
    return copy


def without_dead_code(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without nodes and initializers that no output depends on; inputs stay."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    wanted = {value.name for value in graph.output}
    dead = []
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            dead.append(node)
        else:
            wanted.update(_reads(node))
    drop(graph.node, dead)
    unused = [tensor for tensor in graph.initializer if tensor.name not in wanted]
    names = {tensor.name for tensor in unused}
    drop(graph.initializer, unused)
    drop(graph.sparse_initializer, [item for item in graph.sparse_initializer if item.values.name not in wanted])
    # Old files list initializers among the inputs: without its value one would have to be given.
    drop(graph.input, [value for value in graph.input if value.name in names])
    return copy


def drop(items: Any, unwanted: Iterable[Any]) -> None:
    """Remove messages from a repeated field, in place; compared as objects, not by value."""
    kept_alive = list(unwanted)
    ids = {id(item) for item in kept_alive}
    for index in range(len(items) - 1, -1, -1):
        if id(items[index]) in ids:
            del items[index]


def unused_name(model: onnx.ModelProto, stem: str) -> str:
    """A tensor name that the main graph does not use yet, made of `stem`."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken.update(item.name for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info))
    if stem not in taken:
        return stem
    return next(f"{stem}_{number}" for number in range(len(taken) + 1) if f"{stem}_{number}" not in taken)


def first_line(error: Exception) -> str:
    """The first line of what an error says, cut to what fits into a message."""
    text = str(error).strip()
    return text.split("\n", 1)[0][:300] if text else type(error).__name__


def _constant(node: onnx.NodeProto) -> Array | None:
    """The value of a `Constant` node in any of its forms; None for text."""
    (attribute,) = node.attribute
    match attribute.name:
        case "value":
            return cast("Array", numpy_helper.to_array(attribute.t))
        case "sparse_value":
            return _dense(attribute.sparse_tensor)
        case "value_float" | "value_floats":
            return np.array(onnx.helper.get_attribute_value(attribute), np.float32)
        case "value_int" | "value_ints":
            return np.array(onnx.helper.get_attribute_value(attribute), np.int64)
        case _:
            return None


def _dense(sparse: onnx.SparseTensorProto) -> Array:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    # Indices are places in the flattened tensor, or one row of coordinates a value.
    dense[np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)] = values
    return dense


def _whole(array: Array) -> Array:
    """The array in C order: what is written byte by byte. A 0-dimensional one stays so."""
    return np.asarray(array, order="C")


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node reads, those that its subgraphs read from outside included."""
    yield from (name for name in node.input if name)
    for graph in _subgraphs(node):
        own = {item.name for item in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            yield from (name for name in _reads(inner) if name not in own)
            own.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in own)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _parts(graph: onnx.GraphProto) -> Iterator[Any]:
    """Everything in a graph that may carry notes, subgraphs included."""
    yield graph
    yield from graph.node
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for node in graph.node:
        for inner in _subgraphs(node):
            yield from _parts(inner)
