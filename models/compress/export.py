"""A PyTorch module as an ONNX graph that can stand in for the original: the same inputs, the same output."""
# mypy: allow-subclassing-any
# Where the types are checked PyTorch is not installed: its classes are unknown there.

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from models.compress.errors import Inapplicable
from models.compress.original import Original, are_probabilities
from models.compress.students.layers import Student
from models.compress.workbench import Workbench

OPSET = 18
"""The lowest the exporter writes by itself: what reads the original most likely reads it."""
EXAMPLE_ROWS = 2
"""One row would be taken for a fixed batch of one."""


class _Answer(nn.Module):
    """The module behind the original's signature: tensors in the original's order in, its scores out."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], *, probabilities: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.names, self.probabilities, self.dtype = module, names, probabilities, dtype

    def forward(self, *tensors: Tensor) -> Tensor:
        logits = self.module(dict(zip(self.names, tensors, strict=True)))
        return (torch.softmax(logits, dim=1) if self.probabilities else logits).to(self.dtype)


def exported(module: nn.Module, bench: Workbench) -> onnx.ModelProto:
    """What the module computes in evaluation mode, as a graph with the original's inputs and output.

    `module` maps the inputs by name to logits [rows, classes]; probabilities are made of them where the
    original gives probabilities. Batch normalisation is merged into convolutions. Raises `Inapplicable` when
    PyTorch cannot export it.
    """
    original, rows = bench.original, bench.train
    names = tuple(spec.name for spec in original.inputs)
    module = copy.deepcopy(module)
    if isinstance(module, Student):
        module.merge()
    answer = _Answer(
        module,
        names,
        probabilities=are_probabilities(bench.teacher),
        dtype=torch.float16 if original.output.datatype == "FP16" else torch.float32,
    ).eval()
    example = rows.take(np.arange(EXAMPLE_ROWS) % len(rows))
    free = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape) if size == -1}
        for spec in original.inputs
    )
    try:
        with _quiet(), torch.inference_mode():
            program = torch.onnx.export(
                answer,
                tuple(torch.from_numpy(np.ascontiguousarray(example.inputs[name])) for name in names),
                input_names=list(names),
                output_names=[original.output.name],
                dynamic_shapes={"tensors": free},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise Inapplicable(f"PyTorch cannot export it: {str(error).strip().splitlines()[0]}") from error
    return _signed(program.model_proto, original)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own use of PyTorch and of packages it could do more with."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _signed(model: onnx.ModelProto, original: Original) -> onnx.ModelProto:
    """The graph with the original's own declarations of inputs and output; notes of the exporter left out."""
    graph, before = model.graph, original.model().graph
    weights = {weight.name for weight in before.initializer}
    declared = {value.name: value for value in (*before.input, *before.output) if value.name not in weights}
    del graph.input[:], graph.output[:], graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    graph.input.extend(declared[spec.name] for spec in original.inputs)
    graph.output.append(declared[original.output.name])
    for node in graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    return model
