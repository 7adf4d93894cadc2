"""Train the nets of the demo family: `python -m models.zoo.fashion.train --help`."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.zoo import course, options
from models.zoo.course import Course, one_cycle
from models.zoo.errors import DatasetError
from models.zoo.fashion.data import DEBIAN_FOLDER, FOLDER_SETTING, Images, load
from models.zoo.fashion.nets import NETS, NetPlan, Normalise

BATCH_ROWS = 256
LABEL_SMOOTHING = 0.1
"""Several classes overlap (shirt, coat, pullover): full confidence in a label is not earned."""
MOMENTUM = 0.9
WARM_UP = 0.2
"""Share of the training during which the learning rate rises."""
MOST_SHIFT = 2
"""Most pixels an image is moved by, along each axis, while training."""
TEMPERATURE = 2.0
TEACHING = 0.7
"""Share of the teacher's answers in the loss; the labels have the rest."""
HELD_OUT = 5_000
"""Last images of the training half, never trained on: every choice is made by them."""


@dataclass(frozen=True, slots=True)
class Run:
    """The settings of a training run; a kept state belongs to it when it has the very same."""

    net: str
    cycles: tuple[int, ...]
    """Epochs of each cycle of the learning rate; the net at the end of each is kept."""
    seed: int
    peak_rate: float
    weight_decay: float
    batch_rows: int = BATCH_ROWS
    label_smoothing: float = LABEL_SMOOTHING
    most_shift: int = MOST_SHIFT
    erased: float = 0.0
    """Share of the images that lose a rectangle while training."""
    teacher: str | None = None
    """The net that gives soft targets."""
    held_out: int = HELD_OUT

    def facts(self) -> dict[str, Any]:
        """The settings as plain values, to be kept beside the weights."""
        return {**dataclasses.asdict(self), "cycles": list(self.cycles)}

    @property
    def epochs(self) -> int:
        """Passes over the images, in all cycles."""
        return sum(self.cycles)

    def place(self, progress: float) -> tuple[int, float]:
        """The cycle, from 0, and the share of it that is done, after `progress` epochs."""
        for cycle, epochs in enumerate(self.cycles):
            if progress < epochs or cycle == len(self.cycles) - 1:
                return cycle, progress / epochs
            progress -= epochs
        raise AssertionError("a run has at least one cycle")

    def rate(self, progress: float) -> float:
        """The learning rate after `progress` epochs: later cycles start from a good net and rise half as high."""
        cycle, share = self.place(progress)
        return (self.peak_rate if cycle == 0 else self.peak_rate / 2) * one_cycle(share, WARM_UP)


def augment(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Each image mirrored by chance and moved by up to `MOST_SHIFT` pixels; black moves in.

    Unsigned bytes [n, 28, 28] -> the same shape.
    """
    count, side, _ = pixels.shape
    padded = functional.pad(pixels, (MOST_SHIFT,) * 4)
    down, right = torch.randint(0, 2 * MOST_SHIFT + 1, (2, count, 1), generator=random)
    mirrored = torch.randint(0, 2, (count, 1), generator=random).bool()
    rows = torch.arange(side) + down
    columns = torch.arange(side).expand(count, side)
    columns = torch.where(mirrored, columns.flip(1), columns) + right
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def erase(pixels: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A rectangle of noise over that share of the images, each of 2 to 20 % of the area.

    Zhong et al., "Random Erasing Data Augmentation", 2017. Unsigned bytes [n, 28, 28] -> the same shape.
    """
    count, side, _ = pixels.shape
    area = (0.02 + 0.18 * torch.rand(count, generator=random)) * side * side
    stretch = torch.exp((torch.rand(count, generator=random) * 2 - 1) * math.log(3.0)).sqrt()
    height, width = (area.sqrt() * stretch), (area.sqrt() / stretch)
    chosen = torch.rand(count, generator=random) < share
    top, left = (torch.rand(2, count, generator=random) * side).unbind()
    line = torch.arange(side)
    rows = ((line >= (top - height / 2)[:, None]) & (line < (top + height / 2)[:, None]))[:, :, None]
    columns = ((line >= (left - width / 2)[:, None]) & (line < (left + width / 2)[:, None]))[:, None, :]
    noise = torch.randint(0, 256, pixels.shape, dtype=pixels.dtype, generator=random)
    return torch.where(rows & columns & chosen[:, None, None], noise, pixels)


def soft_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """How far the softened answers [n, classes] are from the teacher's (Hinton et al., 2015), a row."""
    soft = functional.log_softmax(logits / TEMPERATURE, dim=1)
    target = functional.log_softmax(taught / TEMPERATURE, dim=1)
    return functional.kl_div(soft, target, reduction="batchmean", log_target=True) * TEMPERATURE**2


def accuracy(net: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Share of images [n, 28, 28] whose best class is their label."""
    net.eval()
    normalise = Normalise()
    with torch.inference_mode():
        right = sum(
            int((net(normalise(some)).argmax(1) == truth).sum())
            for some, truth in zip(pixels.split(500), labels.split(500), strict=True)
        )
    return right / len(labels)


class ImageCourse(Course):
    """A net of this family in training: on images mirrored, moved and erased, taught or not."""

    judged_by = "held_out"

    def __init__(self, run: Run, plan: NetPlan, images: Images, work: Path) -> None:
        """`work` has the teacher's weights. Raises `FileNotFoundError` where it was not trained yet."""
        net = plan.make().to(memory_format=torch.channels_last)
        super().__init__(
            net,
            torch.optim.SGD(
                net.parameters(), lr=run.peak_rate, momentum=MOMENTUM, nesterov=True, weight_decay=run.weight_decay
            ),
            milestones=frozenset(accumulate(run.cycles)),  # these nets answer together in one of the variants
        )
        self._run, self._plan = run, plan
        # After the net itself: making a teacher draws weights, too.
        self._teacher = None if run.teacher is None else _teacher(run.teacher, work)
        pixels, labels = torch.tensor(images.pixels), torch.tensor(images.labels, dtype=torch.int64)
        split = len(pixels) - run.held_out
        self._pixels, self._labels = pixels[:split], labels[:split]
        self._held_out = pixels[split:], labels[split:]
        self._normalise = Normalise()

    def batches(self, random: torch.Generator) -> Sequence[Tensor]:
        """A new order, whole batches only."""
        order, rows = torch.randperm(len(self._pixels), generator=random), self._run.batch_rows
        made: Sequence[Tensor] = order[: len(order) - len(order) % rows].split(rows)
        return made

    def loss(self, places: Tensor, random: torch.Generator) -> Tensor:
        """Of the labels, smoothed, and of the teacher's answers, where there is one."""
        images = erase(augment(self._pixels[places], random), self._run.erased, random)
        inputs = self._normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._plan.bfloat16):
            logits = self.net(inputs)
        smoothing = self._run.label_smoothing
        loss = functional.cross_entropy(logits.float(), self._labels[places], label_smoothing=smoothing)
        if self._teacher is None:
            return loss
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            taught = self._teacher(inputs).float().clone()
        return (1 - TEACHING) * loss + TEACHING * soft_loss(logits.float(), taught)

    def set_rates(self, progress: float) -> None:
        """The same rate for all weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._run.rate(progress)

    def accuracy(self) -> float:
        """On the images held out."""
        return accuracy(self.net, *self._held_out)


def train(run: Run, plan: NetPlan, images: Images, work: Path) -> Path:
    """Train one net, or go on with it, and return the file of its weights, with those at the end of each cycle."""
    return course.train(run, lambda: ImageCourse(run, plan, images, work), work)


def _teacher(name: str, work: Path) -> nn.Module:
    """A trained net that only answers. Raises `FileNotFoundError` where it was not trained yet."""
    net = NETS[name].make().to(memory_format=torch.channels_last).eval()
    net.load_state_dict(torch.load(work / f"{name}.pt", weights_only=True)["weights"])
    return net.requires_grad_(False)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = options.training(
        "fashion",
        "Train the nets of the demo family on Fashion-MNIST, largest first.",
        nets=NETS,
        examples=(
            "  python -m models.zoo.fashion.train                     all nets, an hour on two cores\n"
            "  python -m models.zoo.fashion.train --nets dsconv-16    one net, a minute or two\n"
            "  python -m models.zoo.fashion.train --epochs 1 --work DIR    a rehearsal\n"
            "On a busy machine two runs of one thread are faster than one of two."
        ),
        threads=2,
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"folder with the four idx files (default: {FOLDER_SETTING}, else {DEBIAN_FOLDER})",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line names; 1 when the data set is not there."""
    chosen = parse_arguments(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        images = load("train", chosen.data)
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    for name in chosen.nets:
        plan = NETS[name]
        cycles = (chosen.epochs,) if chosen.epochs else plan.cycles
        run = Run(
            name, cycles, chosen.seed, plan.peak_rate, plan.weight_decay, erased=plan.erased, teacher=plan.teacher
        )
        print(f"{name}: {plan.design}, {run.epochs} epochs", flush=True)
        print(f"{name}: weights in {train(run, plan, images, chosen.work.expanduser())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
