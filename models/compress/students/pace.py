"""How long students take to train here, and so how thoroughly one can be trained in the time there is."""

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from types import MappingProxyType

import numpy as np
import torch

from models.compress.dataset import Rows
from models.compress.students.layers import Student
from models.compress.training import PEAK_RATE, TrainingPlan, torch_threads
from models.compress.workbench import Workbench

STEPS = 3000
"""Batches after which a small student has learnt nearly all it will."""
LEAST_EPOCHS, MOST_EPOCHS = 30, 150
"""Passes over the rows, however many or few they are."""
FEW_ROWS, SMALL_BATCH, BATCH = 20_000, 64, 128
"""Below that many rows batches are smaller: there are few of them."""
LADDER = (1, 2, 3, 5, 8, 12, 20, 30, 45, 70, 100, 150)
"""Numbers of epochs that are asked for, so that a little noise in a measured pace asks for the same."""
TIMED_STEPS = 5
RATES: Mapping[str, float] = MappingProxyType({"transformer": 4e-3})
"""Peak learning rates of families that do not bear the usual one at every width."""


def unhurried(rows: int, family: str) -> TrainingPlan:
    """How to train a student on that many rows when there is time."""
    batch = SMALL_BATCH if rows < FEW_ROWS else BATCH
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, STEPS // max(1, rows // batch)))
    return TrainingPlan(epochs=epochs, batch_rows=batch, peak_rate=RATES.get(family, PEAK_RATE))


def within(plan: TrainingPlan, epoch_s: float, allowed_s: float) -> TrainingPlan | None:
    """The plan with as many epochs as fit into `allowed_s`; None when not even one does."""
    if allowed_s == inf:
        return plan
    fitting = [epochs for epochs in LADDER if epochs * epoch_s <= allowed_s]
    return replace(plan, epochs=min(plan.epochs, fitting[-1])) if fitting else None


def epoch_s(student: Student, rows: Rows, plan: TrainingPlan, bench: Workbench) -> float:
    """Seconds one pass over the training rows takes, from a few steps on a copy of the student."""
    trainee = copy.deepcopy(student).train()
    optimizer = torch.optim.AdamW(trainee.parameters())
    # Of 2 rows at least: normalisation needs a deviation.
    index = np.arange(max(2, min(plan.batch_rows, len(rows)))) % len(rows)
    batch = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in rows.take(index).inputs.items()}
    took_s = []
    with torch_threads(bench.threads), torch.random.fork_rng(devices=[]):
        for _ in range(TIMED_STEPS):
            began_s = time.perf_counter()
            optimizer.zero_grad()
            trainee(batch).logsumexp(dim=1).mean().backward()
            optimizer.step()
            took_s.append(time.perf_counter() - began_s)
    # The first steps set memory up.
    return statistics.median(took_s[1:]) * max(1, len(rows) // plan.batch_rows)
