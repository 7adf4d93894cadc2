"""A quick look at a candidate: good enough to choose what to try next, not to publish.

Right answers on the validation rows; latency as a ratio to the original, measured in turns with it so that a
busy moment of the host touches both; bytes.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compress.original import Original, log_probabilities, scores_of
from models.compress.workbench import Workbench
from models.manifest import ManifestError
from models.repository import require_agreement
from models.session import ModelLoadError, ModelRunError, Session, Tensor

BATCHES = (1, 16)
"""Rows of the two batches that are timed: a request alone, and a batch under load."""
TURNS = 7
TURN_S = 0.004
"""Time one model gets in one turn, at least one run."""
LONG_S = 0.03
"""A run for which it does not matter what the processor's caches held before."""
TIMING_S, FEWEST_TURNS = 0.5, 3
"""Turns are left out where they take longer than this all together, all but the fewest."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What a candidate is chosen by."""

    score: float
    """Share of validation rows answered right, 0 to 1."""
    latency: tuple[float, ...]
    """Time of each of `BATCHES` as a ratio to the original's."""
    size_bytes: int
    divergence: float = 0.0
    """Mean Kullback-Leibler divergence from the original's answers on the validation rows, nats."""

    @property
    def unlikeness(self) -> float:
        """The divergence as a cost, from 1.

        On a few hundred rows many candidates get equally many right. Among them the one that answers like the
        original is the better bet for rows that nobody has seen.
        """
        return 1.0 + self.divergence

    @property
    def costs(self) -> tuple[float, ...]:
        """See `frontier.Rated`. Energy is not among them: where it is an estimate it is latency again."""
        return (*self.latency, float(self.size_bytes), self.unlikeness)

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "score": self.score,
            "latency": list(self.latency),
            "size_bytes": self.size_bytes,
            "divergence": self.divergence,
        }


def weight_from(facts: Mapping[str, Any]) -> Weight:
    """The weight whose `facts` these are. Raises `KeyError` where they are another's."""
    return Weight(facts["score"], tuple(facts["latency"]), facts["size_bytes"], facts["divergence"])


def weigh(content: bytes, bench: Workbench) -> Weight:
    """Weigh a model.

    Raises `ModelLoadError` when it does not load or takes or gives anything else than the original, `ModelRunError`
    when it does not run or answers what is no score.
    """
    session = Session(content)
    _require_contract(session, bench.original)
    scores = scores_of(session, bench.original.output.name, bench.validation)
    _require_scores(scores, len(bench.validation), bench.original.classes)
    score = float((scores.argmax(axis=1) == bench.verdicts).mean())
    return Weight(score, latency_of(session, bench), len(content), _divergence(bench.expected, scores))


def latency_of(session: Session, bench: Workbench) -> tuple[float, ...]:
    """Time of each of `BATCHES` as a ratio to the original's. Raises `ModelRunError`."""
    return tuple(_ratio(session, bench, rows) for rows in BATCHES)


def _divergence(expected: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    reference, found = log_probabilities(expected), log_probabilities(scores)
    return max(0.0, float((np.exp(reference) * (reference - found)).sum(axis=1).mean()))


def _require_contract(session: Session, original: Original) -> None:
    try:
        require_agreement("input", original.inputs, session.inputs)
        require_agreement("output", (original.output,), session.outputs)
    except ManifestError as error:
        raise ModelLoadError(str(error)) from error
    if len(session.outputs) > 1:
        raise ModelLoadError(f"it has {len(session.outputs)} outputs, the original one")


def _require_scores(scores: NDArray[np.float32], rows: int, classes: int) -> None:
    """What a graph says of its output need not be what it answers."""
    if scores.shape != (rows, classes):
        raise ModelRunError(f"it answers {rows} rows with shape {list(scores.shape)}, expected [{rows}, {classes}]")
    bad = int((~np.isfinite(scores).all(axis=1)).sum())
    if bad:
        raise ModelRunError(f"it answers {bad} of {rows} rows with NaN or infinity")


def _ratio(session: Session, bench: Workbench, rows: int) -> float:
    batch = bench.train.take(slice(0, rows)).inputs
    ratios: list[float] = []
    spent_s = 0.0
    while len(ratios) < FEWEST_TURNS or (len(ratios) < TURNS and spent_s < TIMING_S):
        reference_s, candidate_s = _least_s(bench.original.session, batch), _least_s(session, batch)
        ratios.append(candidate_s / reference_s)
        spent_s += max(reference_s, TURN_S) + max(candidate_s, TURN_S)
    return statistics.median(ratios)


def _least_s(session: Session, batch: Mapping[str, Tensor]) -> float:
    """Least time of the runs that fit into a turn; the first only warms up, unless it is too long to gain by that."""
    least_s = _timed_s(session, batch)
    if least_s >= LONG_S:
        return least_s
    least_s = spent_s = 0.0
    while least_s == 0.0 or spent_s < TURN_S:
        took_s = _timed_s(session, batch)
        spent_s += took_s
        least_s = min(least_s or took_s, took_s)
    return least_s


def _timed_s(session: Session, batch: Mapping[str, Tensor]) -> float:
    started_s = time.perf_counter()
    session.run(batch)
    return time.perf_counter() - started_s
