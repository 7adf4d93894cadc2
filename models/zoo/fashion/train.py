"""Train the nets of the demo family: `python -m models.zoo.fashion.train --help`.

A run can be killed at any moment: the state is kept after each epoch, and the same command goes on
from there. What an epoch does depends only on the seed and the epoch's number, so an interrupted run
sees the same batches as one that was not.
"""

import argparse
import copy
import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.zoo.fashion.data import DEBIAN_FOLDER, FOLDER_SETTING, DatasetError, Images, load
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

DEFAULT_WORK = Path("~/.cache/gearshift/zoo/fashion")


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
        return learning_rate(share, self.peak_rate if cycle == 0 else self.peak_rate / 2)


def learning_rate(progress: float, peak: float) -> float:
    """One cycle (Smith, "Super-Convergence", 2018): a linear rise, then half a cosine down to 0.

    `progress` is the share of all steps that are done, 0 to 1.
    """
    if progress < WARM_UP:
        return peak * max(progress / WARM_UP, 0.01)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (progress - WARM_UP) / (1.0 - WARM_UP)))


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


def train(run: Run, plan: NetPlan, images: Images, work: Path) -> Path:
    """Train one net, or go on with it, and return the file of its weights.

    The file holds `weights` (and those at the end of each cycle, `snapshots`), the `run` and what was
    seen (`held_out_accuracy`, `seconds`).
    """
    finished = work / f"{run.net}.pt"
    kept = work / f"{run.net}.partial.pt"
    if _belongs(finished, run):
        print(f"{run.net}: already trained, {finished}")
        return finished

    teacher = None if run.teacher is None else _teacher(run.teacher, work)
    torch.manual_seed(run.seed)
    net = plan.make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=run.peak_rate, momentum=MOMENTUM, nesterov=True, weight_decay=run.weight_decay
    )
    epoch, seconds = 0, 0.0
    snapshots: list[dict[str, Tensor]] = []
    if _belongs(kept, run):
        state = torch.load(kept, weights_only=True)
        net.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, seconds, snapshots = state["epoch"], state["seconds"], state["snapshots"]
        print(f"{run.net}: going on after epoch {epoch}")

    pixels, labels = torch.tensor(images.pixels), torch.tensor(images.labels, dtype=torch.int64)
    split = len(pixels) - run.held_out
    seen = math.nan
    while epoch < run.epochs:
        began = time.monotonic()
        loss = _train_epoch(run, plan, net, teacher, optimizer, epoch, pixels[:split], labels[:split])
        seen = accuracy(net, pixels[split:], labels[split:])
        epoch += 1
        took = time.monotonic() - began
        seconds += took
        left = (run.epochs - epoch) * took / 60
        print(
            f"{run.net}: epoch {epoch}/{run.epochs}  loss {loss:.4f}  held-out accuracy {seen:.4f}  "
            f"{took:.0f} s, about {left:.0f} min left",
            flush=True,
        )
        if run.place(epoch - 0.5)[0] < run.place(epoch)[0] or epoch == run.epochs:
            snapshots.append(copy.deepcopy(net.state_dict()))
        facts = {"run": run.facts(), "weights": net.state_dict(), "seconds": seconds, "snapshots": snapshots}
        _keep(kept, {**facts, "optimizer": optimizer.state_dict(), "epoch": epoch})
    if math.isnan(seen):  # Killed between the last epoch and this line.
        seen = accuracy(net, pixels[split:], labels[split:])
    _keep(
        finished,
        {
            "run": run.facts(),
            "weights": net.state_dict(),
            "snapshots": snapshots,
            "seconds": seconds,
            "held_out_accuracy": seen,
        },
    )
    kept.unlink(missing_ok=True)
    return finished


def _train_epoch(
    run: Run,
    plan: NetPlan,
    net: nn.Module,
    teacher: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    pixels: Tensor,
    labels: Tensor,
) -> float:
    """One pass over the images in a new order; the mean loss."""
    net.train()
    normalise = Normalise()
    random = torch.Generator().manual_seed(run.seed * 100_003 + epoch)
    order = torch.randperm(len(pixels), generator=random)
    batches = order[: len(order) - len(order) % run.batch_rows].split(run.batch_rows)
    total = 0.0
    for step, chosen in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = run.rate(epoch + step / len(batches))
        images = erase(augment(pixels[chosen], random), run.erased, random)
        inputs = normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=plan.bfloat16):
            logits = net(inputs)
        loss = functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=run.label_smoothing)
        if teacher is not None:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                taught = teacher(inputs).float().clone()
            loss = (1 - TEACHING) * loss + TEACHING * soft_loss(logits.float(), taught)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item()
        if sys.stderr.isatty():
            print(f"\r  {run.net}: {step + 1}/{len(batches)} ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    return total / len(batches)


def _teacher(name: str, work: Path) -> nn.Module:
    """A trained net that only answers. Raises `FileNotFoundError` where it was not trained yet."""
    net = NETS[name].make().to(memory_format=torch.channels_last).eval()
    net.load_state_dict(torch.load(work / f"{name}.pt", weights_only=True)["weights"])
    return net.requires_grad_(False)


def _belongs(file: Path, run: Run) -> bool:
    """Whether the state in `file` comes from this very run; a state of other settings is left unread."""
    if not file.exists():
        return False
    same = bool(torch.load(file, weights_only=True)["run"] == run.facts())
    if not same:
        print(f"{run.net}: {file.name} is of a run with other settings and will be replaced")
    return same


def _keep(file: Path, state: dict[str, Any]) -> None:
    """Write a state so that a kill leaves the old one or the new one, never half of one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    torch.save(state, draft)
    draft.replace(file)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m models.zoo.fashion.train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train the nets of the demo family on Fashion-MNIST, largest first.",
        epilog=(
            "The state is kept after each epoch: run the same command again after a kill and it goes on.\n"
            "Then `python -m models.zoo.fashion.build` exports, quantizes and measures what was trained.\n\n"
            "examples:\n"
            "  python -m models.zoo.fashion.train                     all nets, an hour on two cores\n"
            "  python -m models.zoo.fashion.train --nets dsconv-16    one net, a minute or two\n"
            "  python -m models.zoo.fashion.train --epochs 1 --work DIR    a rehearsal"
        ),
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"folder with the four idx files (default: {FOLDER_SETTING}, else {DEBIAN_FOLDER})",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=DEFAULT_WORK,
        metavar="DIR",
        help=f"where states and weights are kept (default: {DEFAULT_WORK})",
    )
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=list(NETS),
        default=list(NETS),
        metavar="NET",
        help=f"which to train: {', '.join(NETS)} (default: all)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the images (default: as planned)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batches (default 0)")
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        metavar="N",
        help="cores to use (default 2; on a busy machine two runs of 1 are faster)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train what the command line names; 1 when the data set is not there."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    try:
        images = load("train", options.data)
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    for name in options.nets:
        plan = NETS[name]
        cycles = (options.epochs,) if options.epochs else plan.cycles
        run = Run(
            name, cycles, options.seed, plan.peak_rate, plan.weight_decay, erased=plan.erased, teacher=plan.teacher
        )
        print(f"{name}: {plan.design}, {run.epochs} epochs", flush=True)
        print(f"{name}: weights in {train(run, plan, images, options.work.expanduser())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
