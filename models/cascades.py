"""Finding cascades: which two variants of a family, and from which confidence on, are worth a variant of their own.

The rule is chosen on some of the rows (A) and measured on others (B) that had no say in it: a threshold fits the rows
it was chosen on a little too well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models.cascade import confidence
from models.evaluate import Accuracy
from models.manifest import Cascade, Evidence, Family, LatencyProfile, Variant
from models.runner import Runner
from models.session import Tensor

BATCH_ROWS = 250
SHARES = tuple(percent / 100 for percent in range(1, 61))
"""Escalations that are tried. Beyond them the second variant alone is nearly as quick."""
LEAST_GAIN = 0.0005
"""Accuracy, in the mean over what a row may cost, that one more cascade must add to be worth its name."""
GRID = 400
LEAST_ROWS = 200
ROW_OVERHEAD_S = 0.0001
"""What the gateway itself spends on a request: some 9,000 a second and core were seen with a tiny model. Beside it the
quickest variants cost alike, and a cascade of them gains nothing."""

Confidence = Literal["margin", "max"]


class CascadeError(ValueError):
    """No cascades can be found as asked; the message names the fact and the remedy."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A variant's scores on some rows."""

    scores: NDArray[np.float64]
    """[rows, classes]."""
    right: NDArray[np.bool_]
    """[rows]: whether the greatest score is at the label."""

    @property
    def accuracy(self) -> Accuracy:
        """How many of the rows are right."""
        return Accuracy(int(self.right.sum()), len(self.right))


@dataclass(frozen=True, slots=True)
class Point:
    """A way to answer: what a row costs, and how accurate it is."""

    cost_s: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cascade as the rows it was chosen on have it."""

    rule: Cascade
    point: Point


@dataclass(frozen=True, slots=True)
class Found:
    """A cascade worth publishing."""

    name: str
    rule: Cascade
    """With the escalation of the rows it was measured on."""
    chosen: Point
    """On the rows it was chosen on."""
    measured: Accuracy
    """On the others."""
    cost_s: float


def score(runner: Runner, inputs: Mapping[str, Tensor], labels: NDArray[np.int64], output: str) -> Scored:
    """Run a variant over all rows. Raises what the runner raises."""
    parts = []
    for start in range(0, len(labels), BATCH_ROWS):
        batch = {name: array[start : start + BATCH_ROWS] for name, array in inputs.items()}
        parts.append(runner.run(batch)[output].astype(np.float64))
    scores = np.concatenate(parts)
    return Scored(scores, scores.argmax(axis=1) == labels)


def scale_of(scored: Sequence[Scored]) -> Literal["probabilities", "logits"]:
    """What the scores of all variants are; `CascadeError` where they are not of one kind."""
    kinds = {bool((s.scores >= 0).all() and np.allclose(s.scores.sum(axis=1), 1.0, atol=1e-3)) for s in scored}
    if len(kinds) > 1:
        raise CascadeError("some variants give probabilities and others do not: one threshold cannot serve both")
    return "probabilities" if kinds.pop() else "logits"


def price(profile: LatencyProfile) -> float:
    """Least seconds of a core that a row costs, in the batch that suits it best and with the gateway's own share."""
    return ROW_OVERHEAD_S + min(seconds / rows for seconds, rows in zip(profile.seconds, profile.rows, strict=True))


def candidates(output: str, scored: Mapping[str, Scored], prices: Mapping[str, float]) -> list[Candidate]:
    """Every pair of variants with every confidence and escalation, on these rows."""
    found = []
    scale = scale_of(list(scored.values()))
    for first, then in permutations(scored, 2):
        if prices[first] >= prices[then] or scored[first].accuracy.value >= scored[then].accuracy.value:
            continue
        for kind in get_args(Confidence):
            rule = Cascade(
                first=first, then=then, output=output, scores=scale, confidence=kind, threshold=0.0, escalation=0.0
            )
            sure = confidence(scored[first].scores, rule)
            thresholds = {min(1.0, round(float(np.quantile(sure, share)), 4)) for share in SHARES}
            for threshold in sorted(thresholds):
                tried = rule.model_copy(update={"threshold": threshold})
                accuracy, escalation = _outcome(tried, sure, scored)
                tried = tried.model_copy(update={"escalation": escalation})
                found.append(Candidate(tried, Point(_cost_s(tried, prices), accuracy.value)))
    return found


def choose(tried: Sequence[Candidate], plain: Sequence[Point], most: int) -> list[Candidate]:
    """The cascades that add most to the frontier of what there is, one by one, up to `most`.

    What is added is the accuracy within reach in the mean over costs, each doubling of the cost counting alike.
    """
    if not tried:
        return []
    costs = [point.cost_s for point in plain]
    grid = np.geomspace(min(costs), max(costs), GRID)
    reach = _reach(plain, grid)
    chosen: list[Candidate] = []
    while len(chosen) < most:
        gains = [float(np.maximum(_reach([each.point], grid) - reach, 0.0).mean()) for each in tried]
        best = int(np.argmax(gains))
        if gains[best] < LEAST_GAIN:
            break
        chosen.append(tried[best])
        reach = np.maximum(reach, _reach([tried[best].point], grid))
    return chosen


def measure(
    chosen: Sequence[Candidate], scored: Mapping[str, Scored], prices: Mapping[str, float], taken: Sequence[str]
) -> list[Found]:
    """The chosen ones on rows that had no say, without those that no longer pay there. `taken` names are not given."""
    plain = [Point(prices[name], each.accuracy.value) for name, each in scored.items()]
    found: list[Found] = []
    names = set(taken)
    for candidate in chosen:
        sure = confidence(scored[candidate.rule.first].scores, candidate.rule)
        accuracy, escalation = _outcome(candidate.rule, sure, scored)
        rule = candidate.rule.model_copy(update={"escalation": escalation})
        cost_s = _cost_s(rule, prices)
        if any(point.cost_s <= cost_s and point.accuracy >= accuracy.value for point in plain):
            continue
        name = _name(rule, names)
        names.add(name)
        found.append(Found(name, rule, candidate.point, accuracy, cost_s))
    return found


def with_cascades(family: Family, found: Sequence[Found], version: str, evidence: Mapping[str, Evidence]) -> Family:
    """The family's next version: its variants, and these."""
    added = tuple(
        Variant(
            name=each.name,
            cascade=each.rule,
            accuracy=round(each.measured.value, 4),
            evidence=evidence.get(each.name),
            recipe={"accuracy_where_chosen": round(each.chosen.accuracy, 4)},
        )
        for each in found
    )
    return Family.model_validate(
        {**family.model_dump(), "version": version, "variants": [v.model_dump() for v in (*family.variants, *added)]},
        strict=False,
    )


def require_like(family: Family, scored: Mapping[str, Scored]) -> None:
    """The rows must be such as the manifest's accuracies were measured on, or the new ones could not be compared.

    Raises `CascadeError`.
    """
    for name, each in scored.items():
        stated = family.variant(name).accuracy
        if stated is None:
            raise CascadeError(f"the accuracy of '{name}' is not known: a cascade of it could not be compared")
        low, high = each.accuracy.interval
        if not low <= stated <= high:
            raise CascadeError(
                f"'{name}' is {stated:.4f} accurate by its manifest, but {low:.4f} to {high:.4f} on these rows: "
                "give rows like those its manifest was measured on"
            )


def _outcome(rule: Cascade, sure: NDArray[np.float64], scored: Mapping[str, Scored]) -> tuple[Accuracy, float]:
    """How many rows are right, and the share that goes on."""
    on = sure < rule.threshold
    right = np.where(on, scored[rule.then].right, scored[rule.first].right)
    return Accuracy(int(right.sum()), len(right)), round(float(on.mean()), 4)


def _cost_s(rule: Cascade, prices: Mapping[str, float]) -> float:
    return prices[rule.first] + rule.escalation * (prices[rule.then] - ROW_OVERHEAD_S)


def _reach(points: Sequence[Point], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best accuracy within each cost of the grid."""
    reach = np.zeros(len(grid))
    for point in points:
        reach = np.maximum(reach, np.where(grid >= point.cost_s * (1 - 1e-9), point.accuracy, 0.0))
    return reach


def _name(rule: Cascade, taken: set[str]) -> str:
    """What the cascade is called: of whom, and in percent how many rows go on."""
    percent = max(1, round(rule.escalation * 100))
    for name in (f"{rule.first}-then-{rule.then}-{percent}", f"cascade-{percent}"):
        if len(name) <= 64 and name not in taken:
            return name
    return next(f"cascade-{percent}-{n}" for n in range(2, len(taken) + 3) if f"cascade-{percent}-{n}" not in taken)
