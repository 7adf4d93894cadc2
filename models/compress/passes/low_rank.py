"""Layers split into two thinner ones: fewer multiply-adds and fewer weights, on any runtime.

How low a rank each layer can bear is measured: every layer is split alone and the model's answers are compared
with before. Ranks are then lowered where that costs least for what it saves, until the share that was asked for
is reached. Layers keep their form where no lower rank saves anything.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import onnx

from models.compress import cost, factors, quantizer
from models.compress import graph as graphs
from models.compress.errors import Inapplicable
from models.compress.factors import Layer, Responses
from models.compress.recovery import epochs_to_recover, recovered
from models.compress.sensitivity import sensitivities
from models.compress.step import Stage, Step
from models.compress.workbench import Workbench

OBSERVED_ROWS = 512
"""Training rows on which the layers' responses are seen."""
KEEP_SHARES = (0.5, 0.7, 0.35)
LEAST = 1e-9
"""Share of the variance below which nothing is lost."""


@dataclass(frozen=True, slots=True)
class LowRank(Step):
    """Ranks that leave a share of the multiply-adds, then trained to recover."""

    name: ClassVar[str] = "low-rank"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    trains: ClassVar[bool] = True

    keep: float = 0.5
    """Share of the model's multiply-adds that may stay, 0 to 1."""
    multiple: int = 8
    """Ranks are multiples of this: runtimes compute channels in such blocks."""
    epochs: int = 10
    """Passes over the training rows to recover; 0 leaves the weights as they are."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The model with layers split in two. Raises `Inapplicable` when so much cannot be saved."""
        subject = self.prepared(model)
        layers, responses = self._seen(subject, bench)
        losses = {each.layer: each.loss for each in sensitivities(replace(self, keep=1.0, epochs=0), model, bench)}
        weights = [
            losses.get(layer.node.name, 0.0) / max(seen.lost(self._probed(layer)), LEAST)
            for layer, seen in zip(layers, responses, strict=True)
        ]
        ranks = self._ranks(layers, responses, weights, cost.multiply_adds(subject))
        thin = graphs.checked(factors.split(subject, [(layers[at], responses[at], rank) for at, rank in ranks.items()]))
        return recovered(thin, bench, self.epochs, self.label)

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """Half of the multiply-adds first, then more and less, as far as they can be reached."""
        subject = quantizer.named(model)
        layers = factors.splittable(subject, cost.shapes(subject))
        epochs = epochs_to_recover(len(bench.train))
        steps = [cls(keep=keep, epochs=epochs) for keep in KEEP_SHARES]
        work = cost.multiply_adds(subject)
        found = [step for step in steps if work - most_saved(layers, step.multiple) <= step.keep * work]
        if not found:
            raise Inapplicable("too little of the model's work is in layers that can be split in two")
        return found

    @property
    def takes_long(self) -> bool:
        """Only with recovery training."""
        return self.epochs > 0

    @property
    def label(self) -> str:
        """`rank-50`; `rank-50.raw` where nothing was trained."""
        return f"rank-{round(100 * self.keep)}{'' if self.epochs else '.raw'}"

    def prepared(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`."""
        return quantizer.named(model)

    def layers(self, subject: onnx.ModelProto) -> Sequence[onnx.NodeProto]:
        """See `sensitivity.Layerwise`: those of which a lower rank would save something."""
        layers = factors.splittable(subject, cost.shapes(subject))
        return [layer.node for layer in layers if self._allowed(layer)]

    def only(self, subject: onnx.ModelProto, bench: Workbench, layers: Collection[str]) -> onnx.ModelProto:
        """See `sensitivity.Layerwise`: at a rank in the middle of those that save something."""
        pairs = zip(*self._seen(subject, bench), strict=True)
        chosen = [(layer, seen, self._probed(layer)) for layer, seen in pairs if layer.node.name in layers]
        return factors.split(subject, chosen)

    def _seen(self, subject: onnx.ModelProto, bench: Workbench) -> tuple[list[Layer], list[Responses]]:
        """The layers that can be split and their responses; found once for a model."""
        key = f"{self.name} {self.multiple} {hashlib.sha256(subject.SerializeToString(deterministic=True)).hexdigest()}"
        if key not in bench.known:
            layers = factors.splittable(subject, cost.shapes(subject))
            layers = [layer for layer in layers if self._allowed(layer)]
            responses = factors.observed(subject, layers, bench.train.take(slice(0, OBSERVED_ROWS)))
            bench.known[key] = layers, responses
        seen: tuple[list[Layer], list[Responses]] = bench.known[key]
        return seen

    def _allowed(self, layer: Layer) -> range:
        return allowed(layer, self.multiple)

    def _probed(self, layer: Layer) -> int:
        ranks = self._allowed(layer)
        return ranks[len(ranks) // 2]

    def _ranks(
        self, layers: Sequence[Layer], responses: Sequence[Responses], weights: Sequence[float], work: int
    ) -> dict[int, int]:
        """The rank of each layer that is split, by its place; each change loses least for what it saves."""
        target = self.keep * work
        ranks: dict[int, int] = {}
        lost = [0.0] * len(layers)
        costs = [layer.multiply_adds for layer in layers]
        while work > target:
            offers = [
                ((weights[at] * responses[at].lost(rank) - lost[at]) / (costs[at] - rank * layer.each), at, rank)
                for at, layer in enumerate(layers)
                for rank in self._allowed(layer)
                if rank < ranks.get(at, layer.highest + 1)
            ]
            if not offers:
                raise Inapplicable(f"no less than {work / target * self.keep:.0%} of the multiply-adds can stay")
            _, at, rank = min(offers)
            work -= costs[at] - rank * layers[at].each
            ranks[at], costs[at] = rank, rank * layers[at].each
            lost[at] = weights[at] * responses[at].lost(rank)
        return ranks


def allowed(layer: Layer, multiple: int) -> range:
    """Ranks of a layer that save something, rising."""
    return range(multiple, layer.highest + 1, multiple)


def most_saved(layers: Sequence[Layer], multiple: int) -> int:
    """Multiply-adds of one row that go when all ranks are at their lowest."""
    return sum(layer.multiply_adds - multiple * layer.each for layer in layers if allowed(layer, multiple))
