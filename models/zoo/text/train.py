"""Train the nets of the text family: `python -m models.zoo.text.train --help`."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.zoo import course, options
from models.zoo.course import Course, one_cycle
from models.zoo.errors import DatasetError
from models.zoo.text.data import Names, load
from models.zoo.text.nets import NETS, NetPlan
from models.zoo.text.tokens import PADDING, UNKNOWN

BATCH_ROWS = 128
LABEL_SMOOTHING = 0.05
"""Some names could be of two languages but happen to differ in this data: full confidence is not earned."""
WARM_UP = 0.1
"""Share of the training during which the learning rate rises."""
SORTED_BATCHES = 32
"""Batches among whose texts those of like length are brought together: filling up costs as much as text."""
MOST_GRADIENT = 1.0
"""Norm to which gradients are cut."""


@dataclass(frozen=True, slots=True)
class Run:
    """The settings of a training run; a kept state belongs to it when it has the very same."""

    net: str
    design: str
    epochs: int
    seed: int
    peak_rate: float
    """Learning rate of layers at the top of the cycle."""
    table_rate: float
    """The same of the tables of n-grams: each of their rows is seen seldom, and has to learn more at a time."""
    weight_decay: float
    """Of layers; a row that is seldom seen would be forgotten."""
    batch_rows: int = BATCH_ROWS
    label_smoothing: float = LABEL_SMOOTHING
    masked: float = 0.0
    """Share of the characters that are unknown while training."""

    def facts(self) -> dict[str, Any]:
        """The settings as plain values, to be kept beside the weights."""
        return dataclasses.asdict(self)

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """AdamW, with a rate of their own for tables."""
        tables = {weights for part in net.modules() if isinstance(part, nn.Embedding) for weights in part.parameters()}
        layers = [weights for weights in net.parameters() if weights not in tables]
        return torch.optim.AdamW(
            [
                {"params": layers, "peak": self.peak_rate, "weight_decay": self.weight_decay},
                {"params": list(tables), "peak": self.table_rate, "weight_decay": 0.0},
            ],
            lr=self.peak_rate,
        )


def member_name(net: str, member: int) -> str:
    """What the files of a committee's member are named after, counted from 0."""
    return f"{net}.{member}"


def trimmed(ids: Tensor) -> Tensor:
    """The texts [n, length] without the columns that hold nothing but padding."""
    longest = int((ids != PADDING).sum(dim=1).max())
    return ids[:, : max(longest, 1)]


def batches(ids: Tensor, rows: int, random: torch.Generator) -> Sequence[Tensor]:
    """Places of the texts of each batch: a new order, texts of like length together, whole batches only."""
    lengths = (ids != PADDING).sum(dim=1)
    order = torch.randperm(len(ids), generator=random)
    chunks = [chunk[lengths[chunk].argsort()] for chunk in order.split(rows * SORTED_BATCHES)]
    made = [batch for chunk in chunks for batch in chunk.split(rows) if len(batch) == rows] or [order]
    return [made[place] for place in torch.randperm(len(made), generator=random).tolist()]


def mask(ids: Tensor, share: float, random: torch.Generator) -> Tensor:
    """The texts [n, length] with that share of their characters, by chance, unknown."""
    chosen = torch.rand(ids.shape, generator=random) < share
    return torch.where(chosen & (ids != PADDING), UNKNOWN, ids)


def accuracy(net: nn.Module, ids: Tensor, labels: Tensor) -> float:
    """Share of texts [n, length] whose best class is their label."""
    net.eval()
    order = (ids != PADDING).sum(dim=1).argsort()
    with torch.inference_mode():
        right = sum(int((net(trimmed(ids[some])).argmax(1) == labels[some]).sum()) for some in order.split(500))
    return right / len(labels)


class NameCourse(Course):
    """A net of this family in training: on names with some characters unknown."""

    judged_by = "validation"
    most_gradient = MOST_GRADIENT

    def __init__(self, run: Run, plan: NetPlan, names: Names, validation: Names) -> None:
        net = plan.make()
        super().__init__(net, run.optimizer(net))
        self._run = run
        self._ids, self._labels = torch.tensor(names.ids()), torch.tensor(names.labels)
        self._validation = torch.tensor(validation.ids()), torch.tensor(validation.labels)

    def batches(self, random: torch.Generator) -> Sequence[Tensor]:
        """Names of like length together."""
        return batches(self._ids, self._run.batch_rows, random)

    def loss(self, places: Tensor, random: torch.Generator) -> Tensor:
        """Of the labels, smoothed."""
        texts = mask(trimmed(self._ids[places]), self._run.masked, random)
        smoothing = self._run.label_smoothing
        return functional.cross_entropy(self.net(texts), self._labels[places], label_smoothing=smoothing)

    def set_rates(self, progress: float) -> None:
        """A rate of their own for tables, with a peak of their own."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * one_cycle(progress / self._run.epochs, WARM_UP)

    def accuracy(self) -> float:
        """On the validation part."""
        return accuracy(self.net, *self._validation)


def train(run: Run, plan: NetPlan, names: Names, validation: Names, work: Path) -> Path:
    """Train one net, or go on with it, and return the file of its weights."""
    return course.train(run, lambda: NameCourse(run, plan, names, validation), work)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = options.training(
        "text",
        "Train the nets of the text family on the names in Babel's locale data, largest first.",
        nets=NETS,
        examples=(
            "  python -m models.zoo.text.train                          all nets, two minutes of one core\n"
            "  python -m models.zoo.text.train --nets ngram-1           one net, some seconds\n"
            "  python -m models.zoo.text.train --epochs 1 --work DIR    a rehearsal"
        ),
        threads=1,
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line names; 1 when the data are not there."""
    chosen = parse_arguments(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        names, validation = load("train"), load("validation")
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    for name in chosen.nets:
        plan = NETS[name]
        for member in range(max(plan.committees)):
            run = Run(
                net=member_name(name, member),
                design=plan.design,
                epochs=chosen.epochs or plan.epochs,
                seed=chosen.seed + member,
                peak_rate=plan.peak_rate,
                table_rate=plan.table_rate,
                weight_decay=plan.weight_decay,
                masked=plan.masked,
            )
            print(f"{run.net}: {plan.design}, {run.epochs} epochs", flush=True)
            print(f"{run.net}: weights in {train(run, plan, names, validation, chosen.work.expanduser())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
