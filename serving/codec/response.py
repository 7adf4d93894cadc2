"""Outputs of a model -> body of the answer."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from models.manifest import Family, TensorSpec
from serving.codec.binary_tensor import tensor_to_binary
from serving.codec.classification import top_classes
from serving.codec.datatypes import WIRE_TYPES, Array, WireType
from serving.codec.envelope import Parameter
from serving.codec.request import InferRequest, RequestedOutput
from serving.core.errors import InternalError, InvalidRequest


def encode_response(
    family: Family,
    request: InferRequest,
    outputs: Mapping[str, Array],
    parameters: Mapping[str, Parameter] | None = None,
) -> tuple[bytes, int | None]:
    """Body of the answer, and the length of its JSON part (Inference-Header-Content-Length) where binary tensors
    follow it; None where the body is all JSON.

    JSON has no NaN and no infinities: they become null, and their tensor carries `"non_finite": true` among its
    parameters. Data in JSON is flat, row-major. Raises `InvalidRequest` where a BYTES output that was not asked
    for in binary is not UTF-8, `InternalError` where `outputs` are not what the family promises.
    """
    document: dict[str, Any] = {"model_name": family.name, "model_version": family.version}
    if request.id is not None:
        document["id"] = request.id
    if parameters:
        document["parameters"] = parameters
    entries: list[dict[str, Any]] = []
    document["outputs"] = entries
    chunks: list[bytes] = []
    for wanted, wire, array in answer_tensors(family, request, outputs):
        entry: dict[str, Any] = {"name": wanted.name, "shape": array.shape, "datatype": wire.name}
        if wanted.binary:
            chunks.append(tensor_to_binary(array, wire))
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = _json_data(wanted.name, array, wire)
        entries.append(entry)
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in body and _mark_non_finite(entries):
        body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not chunks:
        return body, None
    return b"".join((body, *chunks)), len(body)


def answer_tensors(
    family: Family, request: InferRequest, outputs: Mapping[str, Array]
) -> Iterator[tuple[RequestedOutput, WireType, Array]]:
    """The tensors of the answer, in order: each as asked for, with what it is on the wire.

    Raises `InternalError` where `outputs` are not what the family promises.
    """
    specs = {spec.name: spec for spec in family.outputs}
    for wanted in _wanted(family, request):
        spec = specs[wanted.name]
        wire, array = _checked(spec, outputs)
        if wanted.classification:
            array = top_classes(array, wire, wanted.classification, spec.labels, batched=family.batchable)
            wire = WIRE_TYPES["BYTES"]
        yield wanted, wire, array


def _wanted(family: Family, request: InferRequest) -> Iterable[RequestedOutput]:
    if request.outputs:
        return request.outputs
    return [RequestedOutput(spec.name, request.binary_output_default) for spec in family.outputs]


def _checked(spec: TensorSpec, outputs: Mapping[str, Array]) -> tuple[WireType, Array]:
    wire = WIRE_TYPES[spec.datatype]
    array = outputs.get(spec.name)
    if array is None:
        raise InternalError(f"the model gave no output '{spec.name}'")
    if wire.kind == "bits" and array.dtype.itemsize == wire.dtype.itemsize:
        return wire, array.view(wire.dtype)
    if array.dtype != wire.dtype and not (wire.kind == "text" and array.dtype.kind in "SU"):
        raise InternalError(f"the model gave output '{spec.name}' in another datatype than {wire.name}")
    return wire, array


def _json_data(name: str, array: Array, wire: WireType) -> Array | list[str]:
    if wire.kind == "bits":
        raise InvalidRequest(f"output '{name}': {wire.name} has no JSON form: ask for binary_data")
    if wire.kind != "text":
        return array.ravel()
    try:
        return [item if isinstance(item, str) else item.decode() for item in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise InvalidRequest(f"output '{name}': bytes that are not UTF-8: ask for binary_data") from None


def _mark_non_finite(entries: Iterable[dict[str, Any]]) -> bool:
    """Whether any tensor written as JSON holds NaN or infinities; each of them is marked."""
    found = False
    for entry in entries:
        data = entry.get("data")
        if isinstance(data, np.ndarray) and data.dtype.kind == "f" and not np.isfinite(data).all():
            entry["parameters"] = {"non_finite": True}
            found = True
    return found
