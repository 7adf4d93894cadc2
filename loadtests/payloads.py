"""The bodies a live run sends: real pictures for the demo family, a class's own file, or seeded random values."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image

from loadtests.scenario import RequestClass, ScenarioError
from loadtests.target import Metadata, input_specs
from models.calibrate import random_inputs
from models.manifest import TensorSpec
from models.zoo.fashion import samples

BODIES = 16
"""Different bodies of one class and size, sent in turn."""
PICTURES = Path(samples.__file__).parent / "samples"
_PICTURE_SHAPE = (-1, 28, 28)
HEADER_LENGTH = "Inference-Header-Content-Length"
Tensors = Mapping[str, NDArray[Any]]


def bodies(entry: RequestClass, rows: int, metadata: Metadata, seed: int) -> list[tuple[bytes, dict[str, str]]]:
    """Different bodies, with their headers, for the class's requests of `rows` rows. Raises `ScenarioError`."""
    specs = input_specs(metadata)
    return [_encode(entry, specs, tensors) for tensors in _contents(entry, specs, rows, seed)]


def parameters(entry: RequestClass) -> dict[str, Any]:
    """The class's budget in the words of the protocol."""
    said: dict[str, Any] = {
        "latency_budget_ms": entry.latency_ms,
        "min_accuracy": entry.min_accuracy,
        "max_energy_mj": entry.max_energy_mj,
        "prefer": None if entry.prefer == "accuracy" else entry.prefer,
        "variant": entry.variant,
        "priority": entry.priority or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _contents(entry: RequestClass, specs: Sequence[TensorSpec], rows: int, seed: int) -> Iterator[Tensors]:
    if entry.payload.file is not None:
        yield _from_file(entry, specs, rows, entry.payload.file)
        return
    pictures = _pictures(entry.model, specs)
    for number in range(BODIES):
        if pictures is None:
            yield random_inputs(specs, rows, seed=seed + number)
        else:
            chosen = np.random.default_rng([seed, number]).integers(0, len(pictures), rows)
            yield {specs[0].name: pictures[chosen]}


def _pictures(model: str, specs: Sequence[TensorSpec]) -> NDArray[np.uint8] | None:
    """The sample pictures, where the model is the demo family; None where it is not, or they are not there."""
    if model != "fashion" or len(specs) != 1 or specs[0].shape != _PICTURE_SHAPE or specs[0].datatype != "UINT8":
        return None
    files = sorted(PICTURES.glob("*.png"))
    return np.stack([np.asarray(Image.open(file).convert("L")) for file in files]) if files else None


def _from_file(entry: RequestClass, specs: Sequence[TensorSpec], rows: int, file: Path) -> Tensors:
    """The `inputs` of a JSON request, their rows repeated as needed."""
    try:
        inputs = {given["name"]: given for given in orjson.loads(file.read_bytes())["inputs"]}
        tensors = {}
        for spec in specs:
            given = inputs[spec.name]
            array = np.array(given["data"], dtype=_dtype(spec.datatype)).reshape(given["shape"])
            if spec.datatype == "BYTES":
                array = np.array([str(item).encode() for item in array.ravel()], dtype=object).reshape(array.shape)
            tensors[spec.name] = np.resize(array, (rows, *array.shape[1:]))
    except OSError as error:
        raise ScenarioError(f"class '{entry.name}': payload file {file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        names = ", ".join(spec.name for spec in specs)
        raise ScenarioError(
            f"class '{entry.name}': payload file {file}: expected the JSON of an inference request, with name, shape "
            f"and data of the inputs {names}: {type(error).__name__}: {error}"
        ) from error
    return tensors


def _encode(entry: RequestClass, specs: Sequence[TensorSpec], tensors: Tensors) -> tuple[bytes, dict[str, str]]:
    binary = entry.payload.encoding == "binary"
    inputs = []
    tail = b""
    for spec in specs:
        array = tensors[spec.name]
        tensor: dict[str, Any] = {"name": spec.name, "shape": list(array.shape), "datatype": spec.datatype}
        if binary:
            raw = _raw(array)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            flat = array.ravel().tolist()
            tensor["data"] = [item.decode() for item in flat] if spec.datatype == "BYTES" else flat
        inputs.append(tensor)
    told = parameters(entry)
    if binary:
        told["binary_data_output"] = True
    head = orjson.dumps({"parameters": told, "inputs": inputs})
    if not binary:
        return head, {"Content-Type": "application/json"}
    return head + tail, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _raw(array: NDArray[Any]) -> bytes:
    """Little-endian values; each text behind its length in four bytes."""
    if array.dtype == object:
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel().tolist())
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def _dtype(datatype: str) -> Any:
    if datatype == "BYTES":
        return object
    return {"BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}.get(
        datatype, datatype.lower()
    )
