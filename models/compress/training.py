"""Teach a PyTorch module to answer as the original does, or to answer again as it did before it was cut.

Distillation (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015): the student is
shown the whole distribution the original gives, softened by a temperature. Labels, where there are any, take
part with a weight. A run that was killed goes on after its last whole epoch and ends as if it had not been.
"""

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.compress.dataset import Rows
from models.compress.errors import Inapplicable
from models.compress.lessons import ALTERATIONS, Lessons, lessons
from models.compress.workbench import Workbench

PEAK_RATE = 1e-2
TEMPERATURE = 4.0
LABEL_WEIGHT = 0.1
WARM_UP = 0.2
"""Share of the training during which the learning rate rises."""
SCORING_ROWS = 512
DENSE_CHANNELS = 32
"""Fewest channels that a convolution in bfloat16 repays its conversions at."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train. Equal plans, equal modules, equal data, equal weights."""

    epochs: int = 30
    """Passes over the training rows."""
    peak_rate: float = PEAK_RATE
    """AdamW's learning rate at its highest."""
    temperature: float = TEMPERATURE
    """What logits are divided by before they are compared: the higher, the more the small ones count."""
    label_weight: float = LABEL_WEIGHT
    """Share of the loss that labels have, 0 to 1; 0 where nobody labelled the rows."""
    batch_rows: int = 128
    weight_decay: float = 1e-2
    """Decoupled (Loshchilov and Hutter, 2019); of matrices and kernels only."""
    alterations: tuple[str, ...] = ALTERATIONS
    """Ways to alter images that may be used; only those the original is indifferent to are."""
    copies: int = 4
    """Altered versions of each row that the original is asked about."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a training run was."""

    epochs: int
    """Passes that were made, those of earlier runs among them."""
    seconds: float
    """Spent in all of them."""
    scores: tuple[float, ...]
    """Share of validation rows answered right, before the first epoch and after each, 0 to 1."""
    best_epoch: int
    """The one whose weights the module now has; 0: it was best as it came."""
    cut_short: bool
    """Whether time ran out before all epochs of the plan."""

    @property
    def score(self) -> float:
        """Share of validation rows that the module gets right."""
        return self.scores[self.best_epoch]


def learn(module: nn.Module, bench: Workbench, plan: TrainingPlan, key: str) -> Learned:
    """Train a module in place; it ends in evaluation mode with the weights of its best epoch.

    `module` maps the inputs by name to logits [rows, classes]. `key` names the run in the bench's folder and
    in progress: a state kept there is taken up if it is of the same start and the same plan. When the time
    is short the cycle of the learning rate is shortened to what still fits. Raises `Inapplicable` when the
    loss is no number any more.
    """
    run = _Run(module, bench, plan, key)
    with torch_threads(bench.threads), torch.random.fork_rng(devices=[]):
        run.take_up()
        while run.epoch < run.last_epoch():
            run.train_epoch()
        return run.finish()


def scores_of_module(module: nn.Module, rows: Rows) -> NDArray[np.float32]:
    """A module's logits [rows, classes], in evaluation mode, which it is left in."""
    module.eval()
    with torch.inference_mode():
        parts = [
            module(_tensors(rows.take(slice(start, start + SCORING_ROWS)).inputs)).float().numpy()
            for start in range(0, len(rows), SCORING_ROWS)
        ]
    return np.concatenate(parts)


def distillation_loss(
    logits: Tensor, answers: Tensor, labels: Tensor | None, *, temperature: float, label_weight: float
) -> Tensor:
    """Mean over rows of the divergence from the original and, where there are labels, the cross-entropy.

    T^2 KL(softmax(answers / T) || softmax(logits / T)): the square keeps the gradient's size at any
    temperature (Hinton et al., 2015, section 2). `answers` are logits or logarithms of probabilities.
    """
    target = functional.log_softmax(answers / temperature, dim=1)
    told = functional.log_softmax(logits / temperature, dim=1)
    soft = functional.kl_div(told, target, reduction="batchmean", log_target=True) * temperature**2
    if labels is None or label_weight == 0.0:
        return soft
    return (1.0 - label_weight) * soft + label_weight * functional.cross_entropy(logits, labels)


def learning_rate(share: float, peak: float) -> float:
    """One cycle (Smith, "Super-Convergence", 2018): a linear rise, then half a cosine down to 0.

    `share` of all steps are done, 0 to 1.
    """
    if share < WARM_UP:
        return peak * max(share / WARM_UP, 0.01)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (min(share, 1.0) - WARM_UP) / (1.0 - WARM_UP)))


class _Run:
    """One training run and all of its state."""

    def __init__(self, module: nn.Module, bench: Workbench, plan: TrainingPlan, key: str) -> None:
        self.module, self.bench, self.plan, self.key = module, bench, plan, key
        self.lessons: Lessons = lessons(bench, plan.alterations, plan.copies)
        self.optimizer = _optimizer(module, plan)
        self.bfloat16 = _bfloat16_pays(module)
        self.digest = self._digest()
        self.file: Path = bench.folder / "training" / f"{self.digest}.pt"
        self.epoch = 0
        self.seconds = 0.0
        self.longest_epoch_s = 0.0
        self.scores: list[float] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}

    def take_up(self) -> None:
        """Go on from the state on disk, or judge the module as it came."""
        if not self.file.exists():
            self._judge()
            return
        state = torch.load(self.file, weights_only=True)
        self.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.seconds, self.scores = state["epoch"], state["seconds"], state["scores"]
        self.best_epoch, self.best = state["best_epoch"], state["best"]

    def last_epoch(self) -> int:
        """The epoch to end with: the plan's, or the last that fits in the time left."""
        left_s = self.bench.time_left_s
        if left_s == 0.0:
            return self.epoch
        if not self.longest_epoch_s or not math.isfinite(left_s):
            return self.plan.epochs
        return min(self.plan.epochs, self.epoch + int(left_s / self.longest_epoch_s))

    def train_epoch(self) -> None:
        """One pass over the rows in a new order, each in one of its versions."""
        began = time.monotonic()
        last = self.last_epoch()
        seed = np.random.SeedSequence((self.bench.seed, self.epoch))
        random = np.random.default_rng(seed)
        torch.manual_seed(int(seed.generate_state(1)[0]))
        count = len(self.bench.train)
        order = random.permutation(count)
        versions = random.integers(0, self.lessons.copies, count)
        # The rest that fills no batch is left out: it is another one each time, and one row has no deviation.
        batches = max(1, count // self.plan.batch_rows)
        self.module.train()
        total = torch.zeros(())
        for batch in range(batches):
            chosen = order[batch * self.plan.batch_rows : (batch + 1) * self.plan.batch_rows]
            rate = learning_rate((self.epoch + batch / batches) / max(last, self.epoch + 1), self.plan.peak_rate)
            total += self._step(chosen, versions[chosen], rate)
        if not math.isfinite(total.item()):
            raise Inapplicable(f"training diverged in epoch {self.epoch + 1} at a peak rate of {self.plan.peak_rate:g}")
        self.epoch += 1
        self._judge()
        took_s = time.monotonic() - began
        self.seconds += took_s
        self.longest_epoch_s = max(self.longest_epoch_s, took_s)
        self._keep()
        what = f"{self.key}: epoch {self.epoch} of {last}, {self.scores[-1]:.1%} right"
        self.bench.progress(what, self.epoch / max(last, self.epoch))

    def finish(self) -> Learned:
        """Leave the module as it was at its best."""
        self.module.load_state_dict(self.best)
        self.module.eval()
        return Learned(
            self.epoch, self.seconds, tuple(self.scores), self.best_epoch, cut_short=self.epoch < self.plan.epochs
        )

    def _step(self, index: NDArray[np.intp], version: NDArray[np.intp], rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs = _tensors(self.lessons.inputs(index, version))
        answers = torch.from_numpy(self.lessons.answers[version, index])
        labels = self.bench.train.labels
        truth = None if labels is None else torch.from_numpy(labels[index].astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            logits = self.module(inputs)
        loss = distillation_loss(
            logits.float(), answers, truth, temperature=self.plan.temperature, label_weight=self.plan.label_weight
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _judge(self) -> None:
        """Score the module; of equals the later is better, for the rate was lower."""
        verdicts = scores_of_module(self.module, self.bench.validation).argmax(axis=1)
        self.scores.append(float((verdicts == self.bench.verdicts).mean()))
        if self.scores[-1] >= self.scores[self.best_epoch]:
            self.best_epoch = self.epoch
            self.best = copy.deepcopy(self.module.state_dict())

    def _keep(self) -> None:
        """Write the state so that a kill leaves the old one or the new one, never half of one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".draft")
        torch.save(
            {
                "weights": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "seconds": self.seconds,
                "scores": self.scores,
                "best_epoch": self.best_epoch,
                "best": self.best,
            },
            draft,
        )
        draft.replace(self.file)

    def _digest(self) -> str:
        """Names the run by all that its result depends on, the weights it starts from among it."""
        facts = (self.key, asdict(self.plan), self.bench.seed, self.bench.original.sha256, self.lessons.copies)
        hasher = hashlib.sha256(repr(facts).encode())
        for name, tensor in self.module.state_dict().items():
            hasher.update(f"{name} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.detach().contiguous().numpy().tobytes())
        return hasher.hexdigest()[:16]


def _optimizer(module: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """AdamW; biases and norms, having one dimension, do not decay."""
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=plan.peak_rate)


def _bfloat16_pays(module: nn.Module) -> bool:
    """Whether to compute in bfloat16: the processor must multiply it, and the net be of wide dense convolutions.

    Grouped convolutions, small matrices and normalisations lose more in conversions than they gain.
    """
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)]
    dense = all(part.groups == 1 for part in convolutions)
    wide = sum(min(part.in_channels, part.out_channels) >= DENSE_CHANNELS for part in convolutions)
    capable = bool(torch.cpu.get_capabilities().get("avx512_bf16")) or bool(
        torch.cpu.get_capabilities().get("amx_bf16")
    )
    return capable and dense and wide > len(convolutions) / 2


def _tensors(inputs: dict[str, Any] | Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch's own threads, which are set for the whole process, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
