"""What the passes that lower precision share: a graph that ONNX Runtime's quantizers can read, and silence.

Those tools speak through the root logger and print; they leave the model they are given changed, and files where
they worked. Here they get copies, a folder that goes away, and nobody to talk to.
"""

import contextlib
import io
import logging
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

from models.compress import graph as graphs
from models.compress.errors import Inapplicable
from models.session import onnxruntime

LEAST_OPSET = 13
"""Scales by channel are known from this version on."""
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""As /proc/cpuinfo names the instructions that add products of 8 bits to sums of 32."""
LEAST_FLOAT_SHARE = 0.5
"""Of the constants' bytes: with less left in float32 the model has been through such a pass."""


def saturates() -> bool:
    """Whether sums of 8-bit products can overflow on this host: weights must then use 7 bits.

    x86 without VNNI adds two products of unsigned and signed bytes into 16 bits. Other processors do not.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return False
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("flags"):
                return VNNI_FLAGS.isdisjoint(line.partition(":")[2].split())
    return True


def in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model. Raises `Inapplicable` when most of its constants are not float32 any more, or there are none."""
    sizes = {True: 0, False: 0}
    for array in graphs.weights(model).values():
        sizes[array.dtype == np.float32] += array.nbytes
    if sizes[True] <= LEAST_FLOAT_SHARE * sum(sizes.values()):
        raise Inapplicable("most of its weights are not float32: there is nothing left to make smaller")
    return model


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to quantize: constants folded, normalisation merged into convolutions, shapes known, all nodes named.

    Raises `Inapplicable`.
    """
    source = named(graphs.raised(in_float(model), LEAST_OPSET))

    def preprocess(folder: Path) -> onnx.ModelProto:
        from onnxruntime.quantization import quant_pre_process

        before, after = folder / "before.onnx", folder / "after.onnx"
        onnx.save(source, before)
        # By path: a model in memory is handed on as external data, which this version cannot load again.
        # The symbolic inference of shapes needs a package that is not always there, and results would depend on it.
        quant_pre_process(str(before), str(after), skip_symbolic_shape=True)
        return onnx.load(after)

    return named(worked(preprocess))


def worked(work: Callable[[Path], onnx.ModelProto]) -> onnx.ModelProto:
    """What a tool of ONNX Runtime makes in a folder of its own, silently. Raises `Inapplicable` when it fails."""
    onnxruntime()
    with tempfile.TemporaryDirectory(prefix="gearshift-") as folder, silence():
        try:
            return work(Path(folder))
        except Inapplicable:
            raise
        except Exception as error:  # these tools raise anything, assertions and KeyErrors included
            raise Inapplicable(f"ONNX Runtime's quantizer cannot handle it: {graphs.first_line(error)}") from error


def finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """The result without tools' notes and without what nothing reads, known to load. Raises `Inapplicable`."""
    clean = graphs.stripped(graphs.without_dead_code(model))
    del clean.metadata_props[:]
    del clean.graph.value_info[:]
    used = {node.domain for node in clean.graph.node}
    graphs.drop(clean.opset_import, [o for o in clean.opset_import if o.domain and o.domain not in used])
    return graphs.checked(clean)


def matmuls(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with each Gemm that is one written as MatMul and Add: the quantizers of matrices know no Gemm."""

    def rewrite(_: Path) -> onnx.ModelProto:
        from onnxruntime.quantization.onnx_model import ONNXModel

        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        tool = ONNXModel(copy)
        tool.replace_gemm_with_matmul()
        # A transposed weight keeps its name, and what was noted about its shape would be wrong.
        del tool.model.graph.value_info[:]
        return graphs.infer(tool.model)

    return named(worked(rewrite))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing that this thread's tools print or log on the root logger gets out; other threads' lines do."""
    root, library, thread = logging.getLogger(), logging.getLogger("onnxruntime"), threading.get_ident()
    handler = logging.NullHandler()  # With none at all, `logging.warning` would install one that stays.

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    level = library.level
    root.addHandler(handler)
    root.addFilter(others)
    library.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        library.setLevel(level)
        root.removeFilter(others)
        root.removeHandler(handler)


def matrix_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The MatMul nodes with a constant right side [inner, columns], in order. Raises `Inapplicable` without one."""
    values = graphs.weights(model)
    found = [
        node
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in values and values[node.input[1]].ndim == 2
    ]
    if not found:
        raise Inapplicable("it multiplies by no constant matrix")
    return found


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node of the main graph has a name of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken: set[str] = set()
    for number, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_at_{number}"
        taken.add(node.name)
    return copy
