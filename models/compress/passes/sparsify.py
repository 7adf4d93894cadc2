"""Weights set to zero, and stored as the few that are not.

ONNX Runtime computes with dense matrices, so this makes a model smaller in the file and no faster. ONNX's own
sparse initializers spend eight bytes on each place, and its full check refuses them as weights of Conv. Here a
weight is stored as its values and, in one byte each, how far each lies behind the one before (Han, Mao and Dally,
"Deep Compression", 2016, section 2); the runtime spreads them out once, while it loads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.compress import graph as graphs
from models.compress import storage
from models.compress.errors import Inapplicable
from models.compress.recovery import epochs_to_recover, recovered
from models.compress.step import Stage, Step
from models.compress.storage import Packed
from models.compress.workbench import Workbench

Weights = Mapping[str, NDArray[np.float32]]

LAYERS = ("Conv", "ConvTranspose", "Gather", "Gemm", "MatMul")
FARTHEST = 255
"""The largest distance one byte holds; a zero is stored where the next value lies farther."""
LEAST_OPSET = 11
"""The first with all operators that spread values out."""


@dataclass(frozen=True, slots=True)
class Sparsify(Step):
    """The smallest weights set to zero, and the others trained to make up for it."""

    name: ClassVar[str] = "sparsify"
    stage: ClassVar[Stage] = Stage.WEIGHTS
    trains: ClassVar[bool] = True

    sparsity: float = 0.8
    """Share of the weights that become zero, 0 to 1."""
    scope: Literal["model", "layer"] = "model"
    """Whether each layer loses that share, or the model as a whole, each layer as much as it can bear."""
    epochs: int = 10
    """Passes over the training rows to recover; 0 leaves the other weights as they are."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model with its weights stored without their zeros. Raises `Inapplicable` where it has no weights."""
        source = graphs.raised(model, LEAST_OPSET)
        weights = _weights(source)
        kept = kept_in(weights, self.sparsity, self.scope)
        pruned = graphs.with_weights(source, {name: np.where(kept[name], weights[name], 0) for name in weights})
        values = graphs.weights(recovered(pruned, bench, self.epochs, self.label, kept))
        return graphs.checked(
            storage.with_packed(graphs.stripped(pruned), {name: values[name] for name in weights}, without_zeros)
        )

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """A quarter and an eighth of the bytes with recovery; without PyTorch what does without."""
        _weights(model)
        epochs = epochs_to_recover(len(bench.train))
        shares = (0.8, 0.9) if epochs else (0.7,)
        return [*(cls(share, epochs=epochs) for share in shares), cls(0.5, epochs=0)]

    @property
    def takes_long(self) -> bool:
        """Only with recovery training."""
        return self.epochs > 0

    @property
    def label(self) -> str:
        """`sparse-80`; `sparse-80.raw` where nothing was trained."""
        layers = ".layer" if self.scope == "layer" else ""
        return f"sparse-{round(100 * self.sparsity)}{layers}{'' if self.epochs else '.raw'}"


def kept_in(weights: Weights, sparsity: float, scope: Literal["model", "layer"]) -> dict[str, NDArray[np.bool_]]:
    """For each weight which of its elements stay: those of largest magnitude.

    Between layers magnitudes are not comparable. Over the whole model they are ranked by w^2 over the sum of
    the squares in its layer that are no smaller (Lee et al., "Layer-adaptive Sparsity for the Magnitude-based
    Pruning", 2021): what removing it costs that layer, given that the smaller ones are gone.
    """
    if scope == "layer":
        return {name: _largest(np.abs(array), sparsity) for name, array in weights.items()}
    scores = {name: _relative(array) for name, array in weights.items()}
    together = _largest(np.concatenate([score.ravel() for score in scores.values()]), sparsity)
    ends = np.cumsum([score.size for score in scores.values()])[:-1]
    parts = np.split(together, ends)
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def without_zeros(name: str, array: NDArray[np.float32]) -> Packed:
    """A `storage.Pack`: the values that are not zero, and one byte each for the way from the one before."""
    flat = array.ravel()
    places = _stepping_stones(np.flatnonzero(flat))
    part = f"{name}/{{}}".format
    tensors: dict[str, NDArray[np.generic]] = {
        part("values"): flat[places],
        part("gaps"): np.diff(places, prepend=0).astype(np.uint8),
        part("axis"): np.array(0, np.int64),
        part("size"): np.array([array.size], np.int64),
        part("shape"): np.array(array.shape, np.int64),
    }
    nodes = (
        helper.make_node("Cast", [part("gaps")], [part("steps")], to=TensorProto.INT64),
        helper.make_node("CumSum", [part("steps"), part("axis")], [part("places")]),
        helper.make_node("ConstantOfShape", [part("size")], [part("zeros")]),
        helper.make_node("ScatterElements", [part("zeros"), part("places"), part("values")], [part("flat")], axis=0),
        helper.make_node("Reshape", [part("flat"), part("shape")], [name]),
    )
    return Packed(tensors, nodes)


def _stepping_stones(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rising places, with more between those that lie farther apart than a byte can say; never none at all."""
    if not len(places):
        return np.zeros(1, np.intp)
    gaps = np.diff(places, prepend=0)
    missing = np.maximum(gaps - 1, 0) // FARTHEST
    number = np.arange(missing.sum()) - np.repeat(np.cumsum(missing) - missing, missing)
    stones = np.repeat(places - gaps, missing) + FARTHEST * (number + 1)
    return np.sort(np.concatenate([places, stones]))


def _weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The constants that layers multiply with and that are worth storing otherwise, by name."""
    read = {name for node in model.graph.node if node.op_type in LAYERS for name in node.input}
    found = {name: array for name, array in storage.weights_to_pack(model).items() if name in read and array.ndim > 1}
    if not found:
        raise Inapplicable(f"no layer has a weight of float32 with {storage.LEAST_ELEMENTS} elements or more")
    return found


def _relative(array: NDArray[np.float32]) -> NDArray[np.float64]:
    squares = np.square(array.ravel(), dtype=np.float64)
    order = np.argsort(squares, kind="stable")
    no_smaller = np.cumsum(squares[order][::-1])[::-1]
    scores = np.empty_like(squares)
    scores[order] = squares[order] / np.maximum(no_smaller, np.finfo(np.float64).tiny)
    return scores.reshape(array.shape)


def _largest(scores: NDArray[np.floating], sparsity: float) -> NDArray[np.bool_]:
    """Where the largest scores are: all but the share that is to go, of equals the later ones."""
    order = np.argsort(scores.ravel(), kind="stable")
    kept = np.ones(scores.size, np.bool_)
    kept[order[: round(sparsity * scores.size)]] = False
    return kept.reshape(scores.shape)
