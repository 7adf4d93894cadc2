"""The only place that touches ONNX Runtime: the same options when measuring and when serving."""

import os
from collections.abc import Mapping
from functools import cache
from math import inf
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from models.manifest import Datatype, TensorSpec

Tensor = npt.NDArray[Any]

FATAL = 4
"""The one level ONNX Runtime may write by itself."""

_DATATYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class ModelLoadError(ValueError):
    """The bytes are not a model that can be served here; the message says why."""


class ModelRunError(RuntimeError):
    """The model failed on this input."""


class VariantLost(RuntimeError):
    """What stands behind a variant cannot be reached or does not answer as it must; the input is not to blame."""


@cache
def onnxruntime() -> ModuleType:
    """ONNX Runtime, imported late (it is heavy) and with its telemetry off, which must be said before."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    # What fails is raised, and told by us. Its own lines would bypass our log, one for each bad input of a client.
    ort.set_default_logger_severity(FATAL)
    return cast("ModuleType", ort)


class Session:
    """One loaded variant. `run` may be called from several threads at once.

    One thread computes one batch: the pool of workers, not the library, decides how many cores are busy,
    and idle workers do not spin.
    """

    waits = False

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        """`model` is the ONNX file's content, so that what was hashed is what is loaded.

        Raises `ModelLoadError`. A model with tensors in other files is refused: there is no folder to leave.
        """
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = FATAL
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelLoadError(f"ONNX Runtime {ort.__version__} cannot load it: {_first_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._text_inputs = {spec.name for spec in self.inputs if spec.datatype == "BYTES"}
        self._text_outputs = {spec.name for spec in self.outputs if spec.datatype == "BYTES"}

    def run(self, inputs: Mapping[str, Tensor], budget_s: float = inf) -> dict[str, Tensor]:  # noqa: ARG002
        """All outputs by name. Raises `ModelRunError` when the model fails on these inputs.

        A running model cannot be interrupted: the budget has no use here.
        """
        feed = inputs
        if self._text_inputs:
            feed = {name: _to_text(array) if name in self._text_inputs else array for name, array in inputs.items()}
        try:
            values = self._session.run(self._names, feed)
        except Exception as error:
            raise ModelRunError(_first_line(error)) from error
        outputs = dict(zip(self._names, values, strict=True))
        for name in self._text_outputs:
            outputs[name] = _to_bytes(outputs[name])
        return outputs


def _spec(node: Any) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise ModelLoadError(f"tensor '{node.name}' has type {node.type}, which cannot be served")
    # Named and unknown dimensions are free; a dimension of 0 or less is how some exporters write "unknown".
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else -1 for dim in node.shape)
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)


def _to_text(array: Tensor) -> Tensor:
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise ModelRunError("a text input is not valid UTF-8") from error
    return np.array(flat, dtype=object).reshape(array.shape)


def _to_bytes(array: Tensor) -> Tensor:
    flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
    return np.array(flat, dtype=object).reshape(array.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
