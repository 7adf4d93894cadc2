"""How a net of the zoo is trained: the loop is here, a family says what its batches and its loss are.

A run can be killed at any moment: the state is kept after each epoch, and the same command goes on
from there. What an epoch does depends only on the seed and the epoch's number, so an interrupted run
sees the same batches as one that was not.
"""

import copy
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from models.zoo.checkpoint import Checkpoint


class Run(Protocol):
    """The settings of a training run; a kept state belongs to it when it has the very same."""

    @property
    def net(self) -> str:
        """What its files are named after."""

    @property
    def epochs(self) -> int:
        """Passes over the data."""

    @property
    def seed(self) -> int:
        """Of weights and batches."""

    def facts(self) -> dict[str, Any]:
        """The settings as plain values, to be kept beside the weights."""


class Course(ABC):
    """A net that is being trained, with its data and its optimizer."""

    judged_by: ClassVar[str]
    """The data that `accuracy` is measured on: `validation`."""
    most_gradient: ClassVar[float | None] = None
    """Norm to which gradients are cut."""

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, milestones: frozenset[int] = frozenset()
    ) -> None:
        """`milestones` are epochs, counted from 1, after which the net is kept beside the last one."""
        self.net = net
        self.optimizer = optimizer
        self.milestones = milestones
        self._snapshots: list[dict[str, Tensor]] = []

    @abstractmethod
    def batches(self, random: torch.Generator) -> Sequence[Tensor]:
        """Places of the rows of each batch of an epoch."""

    @abstractmethod
    def loss(self, places: Tensor, random: torch.Generator) -> Tensor:
        """The loss of a batch, a number."""

    @abstractmethod
    def set_rates(self, progress: float) -> None:
        """Set the optimizer's learning rates for the step after `progress` epochs."""

    @abstractmethod
    def accuracy(self) -> float:
        """Share of the rows `judged_by` that the net gets right."""

    def take_snapshot(self) -> None:
        """Keep the net as it is now."""
        self._snapshots.append(copy.deepcopy(self.net.state_dict()))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a kept state."""
        self.net.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._snapshots = list(state.get("snapshots", ()))

    def state(self) -> dict[str, Any]:
        """What is worth keeping of the net."""
        snapshots = {"snapshots": self._snapshots} if self._snapshots else {}
        return {"weights": self.net.state_dict(), **snapshots}


def one_cycle(progress: float, warm_up: float) -> float:
    """The learning rate, as a share of its peak, when the share `progress` of all steps is done.

    One cycle (Smith, "Super-Convergence", 2018): a linear rise for the share `warm_up`, then half a cosine down to 0.
    """
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warm_up) / (1.0 - warm_up)))


def train(run: Run, enrol: Callable[[], Course], work: Path) -> Path:
    """Train one net, or go on with it, and return the file of its weights.

    `enrol` makes the course; it is called once the seed is set, and not for a net that is trained already. The file
    holds the `weights` (and those at its milestones, `snapshots`), the `run` and what was seen
    (`{judged_by}_accuracy`, `seconds`).
    """
    finished = Checkpoint(work / f"{run.net}.pt", run.facts())
    kept = Checkpoint(work / f"{run.net}.partial.pt", run.facts())
    if finished.read() is not None:
        print(f"{run.net}: already trained, {finished.file}")
        return finished.file

    torch.manual_seed(run.seed)
    course = enrol()
    epoch, seconds = 0, 0.0
    state = kept.read()
    if state is not None:
        course.restore(state)
        epoch, seconds = state["epoch"], state["seconds"]
        print(f"{run.net}: going on after epoch {epoch}")

    seen = math.nan
    while epoch < run.epochs:
        began = time.monotonic()
        loss = _train_epoch(run, course, epoch)
        seen = course.accuracy()
        epoch += 1
        took = time.monotonic() - began
        seconds += took
        print(
            f"{run.net}: epoch {epoch}/{run.epochs}  loss {loss:.4f}  "
            f"{course.judged_by.replace('_', '-')} accuracy {seen:.4f}  "
            f"{took:.0f} s, about {(run.epochs - epoch) * took / 60:.0f} min left",
            flush=True,
        )
        if epoch in course.milestones:
            course.take_snapshot()
        kept.write(**course.state(), seconds=seconds, optimizer=course.optimizer.state_dict(), epoch=epoch)
    if math.isnan(seen):  # Killed between the last epoch and this line.
        seen = course.accuracy()
    finished.write(**course.state(), seconds=seconds, **{f"{course.judged_by}_accuracy": seen})
    kept.remove()
    return finished.file


def _train_epoch(run: Run, course: Course, epoch: int) -> float:
    """One pass over the rows in a new order; the mean loss."""
    course.net.train()
    seed = run.seed * 100_003 + epoch
    torch.manual_seed(seed)  # of dropout, so that a resumed run drops the same
    random = torch.Generator().manual_seed(seed)
    batches = course.batches(random)
    total = 0.0
    for step, places in enumerate(batches):
        course.set_rates(epoch + step / len(batches))
        loss = course.loss(places, random)
        course.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if course.most_gradient is not None:
            nn.utils.clip_grad_norm_(course.net.parameters(), course.most_gradient)
        course.optimizer.step()
        total += loss.item()
        if sys.stderr.isatty():
            print(f"\r  {run.net}: {step + 1}/{len(batches)} ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    return total / len(batches)
