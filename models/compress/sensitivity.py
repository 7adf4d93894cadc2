"""Which layers a pass hurts: each is changed alone, and what the model then says is compared with before.

One layer at a time, and not all but one: nothing else differs from the reference, so that even a small loss is
the layer's own, and making the model with one change is cheaper. The divergence of the scores is measured and not
the share of right answers: on a few hundred rows one layer seldom turns an answer.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from models.compress.original import log_probabilities, scores_of
from models.compress.workbench import Workbench
from models.session import Session

ROWS = 128
"""Validation rows that losses are measured on."""
MOST_EVALUATIONS = 48
"""Models made and run for one table. With more layers, neighbours are changed together and share the loss."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much one layer matters to a pass."""

    layer: str
    """The node's name."""
    operator: str
    loss: float
    """Mean Kullback-Leibler divergence, nats a row, from the model's answers when only this layer is changed."""

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {"layer": self.layer, "operator": self.operator, "loss": self.loss}


class Layerwise(Protocol):
    """A step that can be applied to some layers only."""

    def facts(self) -> dict[str, Any]:
        """The step's parameters, as `Step` has it."""

    def prepared(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model as the other methods want it; it computes the same. Raises `Inapplicable`."""

    def layers(self, subject: onnx.ModelProto) -> Sequence[onnx.NodeProto]:
        """The layers of a prepared model that the step would change, in order. Raises `Inapplicable`."""

    def only(self, subject: onnx.ModelProto, bench: Workbench, layers: Collection[str]) -> onnx.ModelProto:
        """A prepared model with just these layers changed."""


def sensitivities(step: Layerwise, model: onnx.ModelProto, bench: Workbench) -> tuple[Sensitivity, ...]:
    """How much each layer loses when the step is applied to it alone, in the order of the graph.

    Measured once for equal steps, models and data. Raises `Inapplicable` where the step does.
    """
    key = _key(step, model)
    if key not in bench.known:
        bench.known[key] = _measured(step, model, bench)
    found: tuple[Sensitivity, ...] = bench.known[key]
    return found


def divergence(reference: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence of scores from reference scores, both [rows, classes]; nats a row."""
    expected = log_probabilities(reference.copy()).astype(np.float64)
    found = log_probabilities(scores.copy()).astype(np.float64)
    return float((np.exp(expected) * (expected - found)).sum(axis=1).mean())


def _measured(step: Layerwise, model: onnx.ModelProto, bench: Workbench) -> tuple[Sensitivity, ...]:
    subject = step.prepared(model)
    layers = step.layers(subject)
    rows, output = bench.validation.take(slice(0, ROWS)), bench.original.output.name
    reference = scores_of(Session(subject.SerializeToString()), output, rows)
    table = []
    groups = [group for group in np.array_split(np.arange(len(layers)), MOST_EVALUATIONS) if len(group)]
    for done, group in enumerate(groups):
        bench.progress("layers one by one", done / len(groups))
        members = [layers[at] for at in group]
        changed = step.only(subject, bench, {node.name for node in members})
        loss = divergence(reference, scores_of(Session(changed.SerializeToString()), output, rows))
        table += [Sensitivity(node.name, node.op_type, loss / len(members)) for node in members]
    return tuple(table)


def _key(step: Layerwise, model: onnx.ModelProto) -> str:
    hasher = hashlib.sha256(json.dumps(step.facts(), sort_keys=True).encode())
    hasher.update(model.SerializeToString(deterministic=True))
    return f"sensitivities {hasher.hexdigest()}"
