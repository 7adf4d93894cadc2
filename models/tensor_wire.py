"""Tensors as an endpoint of the Open Inference Protocol takes and gives them: the side of the one who asks.

The side that answers strangers is in `serving/codec`; this one has typed arrays to send, and reads what the manifest
says must come back.
"""

import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from models.manifest import Datatype, TensorSpec
from models.session import Tensor

JSON_LENGTH_HEADER = "inference-header-content-length"

_DTYPES: Mapping[Datatype, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "UINT8": np.dtype("u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype("i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        "BF16": np.dtype("<u2"),
        "BYTES": np.dtype("O"),
    }
)


class WireError(ValueError):
    """The answer is not what the protocol or the manifest says; the message names the place."""


def encode_request(
    inputs: Mapping[str, Tensor],
    specs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    parameters: Mapping[str, str | float],
    *,
    binary: bool,
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference. `binary`: tensors behind the JSON instead of in it."""
    chunks: list[bytes] = []
    given = []
    for spec in specs:
        array = inputs[spec.name]
        entry: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(array.shape)}
        if binary:
            chunks.append(_to_binary(array, spec.datatype))
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = _to_json(array, spec.datatype)
        given.append(entry)
    wanted = [{"name": spec.name, "parameters": {"binary_data": binary}} for spec in outputs]
    document: dict[str, Any] = {"inputs": given, "outputs": wanted}
    if parameters:
        document["parameters"] = dict(parameters)
    head = json.dumps(document, separators=(",", ":")).encode()
    if not binary:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(head))}
    return b"".join((head, *chunks)), headers


def decode_reply(
    body: bytes, headers: Mapping[str, str], specs: tuple[TensorSpec, ...], rows: int | None
) -> dict[str, Tensor]:
    """The outputs the manifest names, each checked against it. `rows`: what the first axis must have. `WireError`."""
    length = headers.get(JSON_LENGTH_HEADER, "")
    split = int(length) if length.isdigit() and len(length) < 12 else len(body)
    try:
        document = json.loads(body[:split])
        entries = {entry["name"]: entry for entry in document["outputs"]}
        binaries = _cut(document["outputs"], memoryview(body)[split:])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise WireError("the answer is not one of the Open Inference Protocol") from None
    found = {}
    for spec in specs:
        entry = entries.get(spec.name)
        if entry is None:
            raise WireError(f"the answer has no output '{spec.name}'")
        found[spec.name] = _output(spec, entry, binaries.get(spec.name), rows)
    return found


def _output(spec: TensorSpec, entry: dict[str, Any], data: memoryview | None, rows: int | None) -> Tensor:
    where = f"output '{spec.name}'"
    shape = entry.get("shape")
    if entry.get("datatype") != spec.datatype or not _fits(shape, spec, rows):
        raise WireError(
            f"{where}: the answer has {str(entry.get('datatype'))[:16]} {str(shape)[:64]}, "
            f"expected {spec.datatype} {list(spec.shape)}" + ("" if rows is None else f" of {rows} row(s)")
        )
    try:
        flat = _from_json(entry["data"], spec.datatype) if data is None else _from_binary(data, spec.datatype)
        return flat.reshape(shape)
    except (ValueError, TypeError, KeyError, OverflowError, struct.error, AttributeError):
        raise WireError(f"{where}: its data do not fit {spec.datatype} {shape}") from None


def _fits(shape: object, spec: TensorSpec, rows: int | None) -> bool:
    if not isinstance(shape, list) or len(shape) != len(spec.shape) or not all(type(dim) is int for dim in shape):
        return False
    wanted = (rows, *spec.shape[1:]) if rows is not None and spec.shape else spec.shape
    return all(dim >= 0 and want in (-1, dim) for dim, want in zip(shape, wanted, strict=True))


def _cut(entries: list[dict[str, Any]], data: memoryview) -> dict[str, memoryview]:
    """Each binary output's own bytes; `ValueError` unless they are all there is."""
    binaries, at = {}, 0
    for entry in entries:
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(data) - at:
            raise ValueError("binary_data_size")
        binaries[entry["name"]] = data[at : at + size]
        at += size
    if at != len(data):
        raise ValueError("bytes behind the last output")
    return binaries


def _to_binary(array: Tensor, datatype: Datatype) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(array, _DTYPES[datatype]).tobytes()
    return b"".join(part for item in array.ravel().tolist() for part in (struct.pack("<I", len(item)), item))


def _to_json(array: Tensor, datatype: Datatype) -> list[Any]:
    if datatype == "BF16":
        raise WireError("BF16 has no JSON form, and the endpoint does not take binary tensors")
    flat: list[Any] = array.ravel().tolist()
    if datatype != "BYTES":
        return flat
    try:
        return [item.decode() for item in flat]
    except UnicodeDecodeError:
        raise WireError("a text input is not UTF-8, and the endpoint does not take binary tensors") from None


def _from_binary(data: memoryview, datatype: Datatype) -> Tensor:
    if datatype != "BYTES":
        return np.frombuffer(data, _DTYPES[datatype])
    texts, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > len(data) - at:
            raise ValueError("a text longer than what is left")
        texts.append(bytes(data[at : at + length]))
        at += length
    return _objects(texts)


def _from_json(data: Any, datatype: Datatype) -> Tensor:
    flat = _flat(data)
    if datatype == "BYTES":
        return _objects([item.encode() for item in flat])
    if datatype == "BF16":
        raise ValueError("no JSON form")
    # What is not finite comes as null.
    if datatype.startswith("FP"):
        flat = [np.nan if item is None else item for item in flat]
        if any(type(item) not in (int, float) for item in flat):
            raise TypeError
    elif any(type(item) is not (bool if datatype == "BOOL" else int) for item in flat):
        raise TypeError
    return np.array(flat, _DTYPES[datatype])


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError("data is no array")
    flat: list[Any] = data
    while flat and isinstance(flat[0], list):
        flat = [item for part in flat for item in part]
    return flat


def _objects(items: list[bytes]) -> Tensor:
    array = np.empty(len(items), object)
    array[:] = items
    return array
