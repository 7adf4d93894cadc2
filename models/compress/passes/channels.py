"""Channels, neurons and heads taken out for good: fewer multiply-adds on any runtime, then trained to recover."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.compress.channels import ChannelGraph, ChannelGroup, Kept
from models.compress.dataset import Rows
from models.compress.errors import Inapplicable
from models.compress.graph import weights
from models.compress.step import Stage, Step
from models.compress.trainable import TrainableGraph
from models.compress.training import TrainingPlan, learn
from models.compress.workbench import Workbench

Importance = Mapping[str, NDArray[np.float64]]
"""For each group by name what its channels are worth, [channels]."""

KEEP_SHARES = (0.5, 0.7, 0.3)
NARROWEST = 0.5
"""No layer is cut to less than this share of the width that an equal cut of all would leave."""
TAYLOR_BATCHES, TAYLOR_ROWS = 32, 16
SETTLING_ROWS = 1024
"""Rows that statistics are taken of."""


@dataclass(frozen=True, slots=True)
class Channels(Step):
    """Removes what is worth least for its cost, over all layers at once, and lets the rest learn from the original."""

    name: ClassVar[str] = "channels"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    trains: ClassVar[bool] = True

    keep: float = 0.5
    """Share of the multiply-adds that may stay, 0 to 1."""
    by: Literal["taylor", "norm"] = "taylor"
    """What a channel is worth: the loss it is expected to save, or the size of its weights."""
    multiple: int = 16
    """Widths are cut to multiples of this; below it to powers of two. Runtimes compute channels in such blocks."""
    epochs: int = 20
    """Passes over the training rows to recover; 0 leaves the weights as they are."""
    peak_rate: float = 4e-3

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model with narrower layers. Raises `Inapplicable` when so much cannot be taken out."""
        graph = ChannelGraph(model)
        if not graph.groups:
            raise Inapplicable("no channels can be taken out: every axis of every weight is tied to an input or output")
        worth = taylor(model, graph, bench) if self.by == "taylor" else norm(graph)
        narrow = graph.removed(chosen(graph, worth, self.keep, self.multiple))
        module = TrainableGraph(narrow, bench.original.output.name)
        module.settle(_tensors(bench.train.take(slice(0, SETTLING_ROWS))))
        if self.epochs > 0:
            learn(module, bench, TrainingPlan(epochs=self.epochs, peak_rate=self.peak_rate), self.label)
        return module.written()

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """Half of the multiply-adds first, then more and less, as far as they can be reached."""
        TrainableGraph(model, bench.original.output.name)
        graph = ChannelGraph(model)
        found = []
        for keep in KEEP_SHARES:
            step = cls(keep=keep)
            try:
                chosen(graph, norm(graph), keep, step.multiple)
            except Inapplicable:
                continue
            found.append(step)
        if not found:
            raise Inapplicable("too little of the model's work is in channels that can be taken out")
        return found

    @property
    def label(self) -> str:
        """`channels-50`."""
        return f"{self.name}-{round(100 * self.keep)}"


def norm(graph: ChannelGraph) -> Importance:
    """The length of each channel's weights relative to its group's mean, averaged over the weights it lies in.

    As DepGraph does for groups (Fang et al., "DepGraph: Towards Any Structural Pruning", 2023).
    """
    arrays = {
        name: np.square(array, dtype=np.float64)
        for name, array in weights(graph.model).items()
        if array.dtype.kind == "f"
    }
    worth = {}
    for group in graph.groups:
        lengths = np.sqrt(_by_channel(group, arrays, least_axes=2))
        worth[group.name] = (lengths / np.maximum(lengths.mean(axis=1, keepdims=True), 1e-12)).mean(axis=0)
    return worth


def taylor(model: onnx.ModelProto, graph: ChannelGraph, bench: Workbench) -> Importance:
    """The square of the loss's expected change when a channel goes, to first order, averaged over batches.

    Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019): gates, summed over the
    weights that the channel lies in. Rows without labels count as what the original says of them.
    """
    module = TrainableGraph(model, bench.original.output.name).eval()
    labels = bench.train.labels if bench.train.labels is not None else bench.teacher.argmax(axis=1)
    order = np.random.default_rng(bench.seed).permutation(len(bench.train))
    worth = {group.name: np.zeros(group.size) for group in graph.groups}
    for start in range(0, min(len(order), TAYLOR_BATCHES * TAYLOR_ROWS), TAYLOR_ROWS):
        index = order[start : start + TAYLOR_ROWS]
        logits = module(_tensors(bench.train.take(index)))
        loss = functional.cross_entropy(logits, torch.from_numpy(labels[index].astype(np.int64)))
        gradients = torch.autograd.grad(loss, list(module.weights), allow_unused=True)
        saved = {
            name: (weight.detach() * gradient).double().numpy()
            for name, weight, gradient in zip(module.names, module.weights, gradients, strict=True)
            if gradient is not None
        }
        for group in graph.groups:
            worth[group.name] += np.square(_by_channel(group, saved, least_axes=1)).sum(axis=0)
    return worth


def chosen(graph: ChannelGraph, worth: Importance, keep: float, multiple: int) -> Kept:
    """The channels that stay: steps from width to width, each the one that loses least for what it saves.

    Raises `Inapplicable` when the groups are at their narrowest before enough is saved.
    """
    order = {name: np.argsort(-values, kind="stable") for name, values in worth.items()}
    falling = {name: np.concatenate([[0.0], np.cumsum(values[order[name]])]) for name, values in worth.items()}
    widths = graph.widths()
    now = graph.multiply_adds(widths)
    target = keep * now
    # Work goes by the square of widths. What a first order says of large cuts is not to be trusted further.
    least = NARROWEST * math.sqrt(keep)
    steps = {group.name: _steps(group, multiple, least) for group in graph.groups}
    while now > target:
        offers = []
        for name, narrower in steps.items():
            saved = graph.saved(widths, name, narrower[0]) if narrower else 0
            if saved > 0:
                offers.append(((falling[name][widths[name]] - falling[name][narrower[0]]) / saved, name, saved))
        if not offers:
            share = now / graph.multiply_adds(graph.widths())
            raise Inapplicable(f"no less than {share:.1%} of the multiply-adds can stay, {keep:.1%} were asked for")
        _, name, saved = min(offers)
        widths[name] = steps[name].pop(0)
        now -= saved
    return {name: np.sort(order[name][:width]) for name, width in widths.items()}


def _steps(group: ChannelGroup, multiple: int, least_share: float) -> list[int]:
    """Widths to stop at on the way down: blocks of a runtime, then halves; heads one by one."""
    least = max(1, math.ceil(least_share * group.size))
    if group.block > 1:
        return list(range(group.size - 1, least - 1, -1))
    widths = list(range((group.size - 1) // multiple * multiple, 0, -multiple))
    power = 1 << (min(group.size, multiple) - 1).bit_length() - 1
    while power >= 1:
        widths.append(power)
        power //= 2
    return [width for width in widths if width >= least]


def _by_channel(group: ChannelGroup, arrays: Mapping[str, NDArray[np.float64]], least_axes: int) -> NDArray[np.float64]:
    """Sums over the elements of each channel, [weights it lies in, channels]."""
    rows = []
    for place in group.places:
        array = arrays.get(place.weight)
        if array is not None and array.ndim >= least_axes:
            along = array.sum(axis=tuple(axis for axis in range(array.ndim) if axis != place.axis))
            rows.append(along[place.positions].sum(axis=1))
    return np.array(rows) if rows else np.zeros((1, group.size))


def _tensors(rows: Rows) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in rows.inputs.items()}
