"""Versions of ONNX that models come in: which ones ONNX Runtime here knows, and raising the old ones."""

import contextlib
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, version_converter

from models.calibrate import random_inputs
from models.compress.errors import CompressError
from models.session import ModelLoadError, ModelRunError, Session, Tensor, onnxruntime

OLDEST_OPSET = 11
"""Older files are converted before anything else is done to them."""
CONVERTED_TO = 13
"""The first opset with quantization per channel, and the nearest one that all passes can work on."""
LEAST_IR = 3
"""The first format that states opsets."""


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators; 0 where the graph imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def check_versions(path: Path, model: onnx.ModelProto) -> None:
    """Name the version that is too new: ONNX Runtime's own text for it is about its source files."""
    runtime = f"ONNX Runtime {onnxruntime().__version__}"
    opset = opset_of(model)
    if opset > OLDEST_OPSET and not _knows(opset, LEAST_IR):
        newest = next(version for version in range(onnx.defs.onnx_opset_version(), 0, -1) if _knows(version, LEAST_IR))
        raise CompressError(
            f"{path}: is of opset {opset}, and {runtime} knows none above {newest}: export it with "
            f"`opset_version={newest}` or lower, or install a newer onnxruntime"
        )
    if not _knows(OLDEST_OPSET, model.ir_version):
        newest = next(version for version in range(onnx.IR_VERSION, 0, -1) if _knows(OLDEST_OPSET, version))
        raise CompressError(
            f"{path}: is of ONNX format {model.ir_version} (ir_version), and {runtime} knows none above {newest}: "
            f"export it with an older onnx, or set `model.ir_version = {newest}` and save it again"
        )


@cache
def _knows(opset: int, ir_version: int) -> bool:
    """Whether ONNX Runtime loads the smallest model of that opset and format: nothing public tells the limits."""
    row = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", row[:1], row[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    try:
        Session(model.SerializeToString())
    except ModelLoadError:
        return False
    return True


def converted(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model raised to `CONVERTED_TO`, and seen to answer as before."""
    opset = opset_of(model)
    remedy = f"export it with opset_version={CONVERTED_TO} or higher"
    try:
        raised = version_converter.convert_version(model, CONVERTED_TO)
    except Exception as error:  # the converter's C++ raises RuntimeError, ValueError and its own
        reason = str(error).strip().split("\n", 1)[0][:300]
        raise CompressError(
            f"{path}: is of opset {opset} and cannot be raised to {CONVERTED_TO}: {reason}; {remedy}"
        ) from error
    # The converter adds to the imports and forgets the old entry, and of two entries runtimes may take either.
    kept = {entry.domain: entry.version for entry in reversed(raised.opset_import)}
    del raised.opset_import[:]
    raised.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(kept.items()))
    raised.ir_version = max(raised.ir_version, 7)
    with contextlib.suppress(ModelLoadError, ModelRunError):  # what cannot run now is refused later, with its reason
        before = Session(model.SerializeToString())
        inputs = random_inputs(before.inputs, 4)
        answers = before.run(inputs)
        again = Session(raised.SerializeToString()).run(inputs)
        if not all(_same(answers[name], again[name]) for name in answers):
            raise CompressError(
                f"{path}: is of opset {opset}, and answers differently once raised to {CONVERTED_TO}; {remedy}"
            )
    return raised


def _same(before: Tensor, after: Tensor) -> bool:
    if before.dtype.kind == "f":
        return before.shape == after.shape and bool(np.allclose(before, after, rtol=1e-3, atol=1e-4, equal_nan=True))
    return bool(np.array_equal(before, after))
