"""Train the nets of the text family: `python -m models.zoo.text.train --help`.

A run can be killed at any moment: the state is kept after each epoch, and the same command goes on
from there. What an epoch does depends only on the seed and the epoch's number, so an interrupted run
sees the same batches as one that was not.
"""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.zoo.text.data import DatasetError, Names, load
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

DEFAULT_WORK = Path("~/.cache/gearshift/zoo/text")


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


def share_of_peak(progress: float) -> float:
    """The learning rate, as a share of its peak, when the share `progress` of all steps is done.

    A linear rise, then half a cosine down to 0.
    """
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return 0.5 * (1.0 + math.cos(math.pi * (progress - WARM_UP) / (1.0 - WARM_UP)))


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


def train(run: Run, plan: NetPlan, names: Names, validation: Names, work: Path) -> Path:
    """Train one net, or go on with it, and return the file of its weights.

    The file holds the `weights`, the `run` and what was seen (`validation_accuracy`, `seconds`).
    """
    finished, kept = work / f"{run.net}.pt", work / f"{run.net}.partial.pt"
    if _belongs(finished, run):
        print(f"{run.net}: already trained, {finished}")
        return finished

    torch.manual_seed(run.seed)
    net = plan.make()
    optimizer = run.optimizer(net)
    epoch, seconds = 0, 0.0
    if _belongs(kept, run):
        state = torch.load(kept, weights_only=True)
        net.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, seconds = state["epoch"], state["seconds"]
        print(f"{run.net}: going on after epoch {epoch}")

    ids, labels = torch.tensor(names.ids()), torch.tensor(names.labels)
    seen_ids, seen_labels = torch.tensor(validation.ids()), torch.tensor(validation.labels)
    while epoch < run.epochs:
        began = time.monotonic()
        loss = _train_epoch(run, net, optimizer, epoch, ids, labels)
        epoch += 1
        took = time.monotonic() - began
        seconds += took
        print(
            f"{run.net}: epoch {epoch}/{run.epochs}  loss {loss:.4f}  "
            f"validation accuracy {accuracy(net, seen_ids, seen_labels):.4f}  "
            f"{took:.0f} s, about {(run.epochs - epoch) * took / 60:.0f} min left",
            flush=True,
        )
        state = {"run": run.facts(), "weights": net.state_dict(), "seconds": seconds}
        _keep(kept, {**state, "optimizer": optimizer.state_dict(), "epoch": epoch})
    seen = accuracy(net, seen_ids, seen_labels)
    state = {"run": run.facts(), "weights": net.state_dict(), "seconds": seconds}
    _keep(finished, {**state, "validation_accuracy": seen})
    kept.unlink(missing_ok=True)
    return finished


def _train_epoch(
    run: Run, net: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, ids: Tensor, labels: Tensor
) -> float:
    """One pass over the texts in a new order; the mean loss."""
    net.train()
    torch.manual_seed(run.seed * 100_003 + epoch)  # of dropout, so that a resumed run drops the same
    random = torch.Generator().manual_seed(run.seed * 100_003 + epoch)
    chosen = batches(ids, run.batch_rows, random)
    total = 0.0
    for step, batch in enumerate(chosen):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak((epoch + step / len(chosen)) / run.epochs)
        texts = mask(trimmed(ids[batch]), run.masked, random)
        loss = functional.cross_entropy(net(texts), labels[batch], label_smoothing=run.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), MOST_GRADIENT)
        optimizer.step()
        total += loss.item()
        if sys.stderr.isatty():
            print(f"\r  {run.net}: {step + 1}/{len(chosen)} ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    return total / len(chosen)


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
        prog="python -m models.zoo.text.train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train the nets of the text family on the names in Babel's locale data, largest first.",
        epilog=(
            "The state is kept after each epoch: run the same command again after a kill and it goes on.\n"
            "Then `python -m models.zoo.text.build` exports, quantizes and measures what was trained.\n\n"
            "examples:\n"
            "  python -m models.zoo.text.train                          all nets, two minutes of one core\n"
            "  python -m models.zoo.text.train --nets ngram-1           one net, some seconds\n"
            "  python -m models.zoo.text.train --epochs 1 --work DIR    a rehearsal"
        ),
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
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the names (default: as planned)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batches (default 0)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="cores to use (default 1)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train what the command line names; 1 when the data are not there."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    try:
        names, validation = load("train"), load("validation")
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    for name in options.nets:
        plan = NETS[name]
        for member in range(max(plan.committees)):
            run = Run(
                net=member_name(name, member),
                design=plan.design,
                epochs=options.epochs or plan.epochs,
                seed=options.seed + member,
                peak_rate=plan.peak_rate,
                table_rate=plan.table_rate,
                weight_decay=plan.weight_decay,
                masked=plan.masked,
            )
            print(f"{run.net}: {plan.design}, {run.epochs} epochs", flush=True)
            print(f"{run.net}: weights in {train(run, plan, names, validation, options.work.expanduser())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
