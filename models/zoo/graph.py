"""From a PyTorch net to the graph that is served."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.session import Session
from models.zoo.errors import BuildError

OPSET = 18
GREATEST_DIFFERENCE = 1e-4
"""Most that a probability may change between PyTorch and the exported float32 graph, or with the filling."""


def export(
    served: torch.nn.Module, example: NDArray[Any], *, takes: str, gives: str, free: Mapping[int, Any]
) -> onnx.ModelProto:
    """The graph of a module in evaluation mode, with its axes `free` (a `torch.export.Dim` by axis).

    `takes` is the name of the input, as `forward` calls it, and `gives` that of the output.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # The exporter warns about its own use of PyTorch.
        program = torch.onnx.export(
            served,
            (torch.tensor(example),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[takes],
            output_names=[gives],
            dynamic_shapes={takes: dict(free)},
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def require_agreement(model: onnx.ModelProto, served: torch.nn.Module, *examples: NDArray[Any]) -> None:
    """`BuildError` unless the graph answers each of the examples as the module answers the first."""
    with torch.inference_mode():
        expected = served(torch.tensor(examples[0])).numpy()
    session = Session(model.SerializeToString())
    (takes,), (gives,) = session.inputs, session.outputs
    for example in examples:
        found = session.run({takes.name: example})[gives.name]
        difference = float(np.abs(found - expected).max())
        if difference > GREATEST_DIFFERENCE:
            raise BuildError(
                f"the exported graph differs from PyTorch by {difference:.1e} in a probability, "
                f"for an input of shape {list(example.shape)}"
            )


def strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about its own source: stack traces with paths of the maker's machine."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (model, graph, *graph.node, *values):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
