"""Exploring compositions of passes: grow recipes, make what they say, weigh it, keep the frontier.

Everything made is remembered under the hash of what it depends on (`store`). The time budget counts work, also
work that an earlier run did: the same command, run again, makes the same choices and does nothing twice; run
after a kill, it goes on; run with a larger budget, it goes further.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.compress.agenda import Agenda, Question, worth_extending
from models.compress.dataset import Dataset
from models.compress.errors import CompressError, Inapplicable
from models.compress.frontier import frontier, thinned
from models.compress.original import Original
from models.compress.passes.int8_static import Int8Static
from models.compress.passes.registry import NAMES, passes_called
from models.compress.sensitivity import Sensitivity
from models.compress.step import Recipe, Stage, Step, can_follow, label_of
from models.compress.store import Entry, Store
from models.compress.tempo import Tempo
from models.compress.weigh import Weight, weight_from
from models.compress.workbench import Progress
from models.compress.workshop import PassFailed, Workshop
from models.session import ModelRunError

MEASURING_SHARE = 0.25
"""Part of the time budget kept for the final measurement."""
SLICE_SHARE = 1 / 3
"""Part of the time left that one training step may take."""
LEAST_SLICE_S = 20.0
"""With less time left than this no training is begun."""
GATE_SLACK = 0.02
"""What loses so much more than is allowed on the validation rows will not pass on the test rows either."""
UNTRIED = "not tried: the time was up, or too short for training, before its turn came"
LONGEST_NAME = 64
"""Of a variant, as the manifest has it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller allows and wants."""

    passes: tuple[str, ...] = NAMES
    time_budget_s: float = 600.0
    """Work to spend, seconds, the measuring at the end included."""
    max_accuracy_loss: float | None = None
    """Most that a variant may lose against the original, 0 to 1."""
    max_size_bytes: int | None = None
    """Largest file that may be published."""
    most_variants: int = 12
    seed: int = 0
    threads: int = 1
    """Cores that a training step may use."""
    watts_per_core: float = 10.0
    """For the estimate of energy where no counter can be read."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that was carried out, and what came of it."""

    name: str
    """As the variant will be called: no other is."""
    recipe: Recipe
    content: bytes
    weight: Weight
    seconds: float
    """Time it took to make, the steps before the last not counted."""

    @property
    def score(self) -> float:
        """See `frontier.Rated`."""
        return self.weight.score

    @property
    def costs(self) -> tuple[float, ...]:
        """See `frontier.Rated`."""
        return self.weight.costs


@dataclass(frozen=True, slots=True)
class Dropped:
    """A recipe that came to nothing, and why."""

    name: str
    recipe: Recipe
    reason: str
    traceback: Path | None = None
    """Where to read more, if the pass did not say itself that it can do nothing, but failed."""


@dataclass(slots=True)
class Findings:
    """All that a search saw."""

    candidates: list[Candidate] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    spent_s: float = 0.0
    """Work of this run and of the earlier ones it built on."""


class Exploration:
    """One original, one data set, one store: explores compositions of passes."""

    def __init__(
        self,
        original: Original,
        data: Dataset,
        options: Options,
        store: Store,
        *,
        progress: Progress = lambda *_: None,
        spent: Callable[[float], None] = lambda _: None,
        passes: Mapping[str, type[Step]] | None = None,
    ) -> None:
        """`passes` replaces those that `options` names.

        Raises `CompressError` for a pass that does not exist, `ModuleNotFoundError` for one whose library does not.
        """
        self._passes = dict(passes if passes is not None else passes_called(options.passes))
        self._options = options
        self._progress = progress
        self._tell_spent = spent
        self._original = original
        self._workshop = Workshop(original, data, store, seed=options.seed, threads=options.threads, progress=progress)
        self.found = Findings()
        self._heard_of: set[str] = set()
        self._agenda = Agenda()

    @property
    def identity(self) -> Sequence[Any]:
        """What everything depends on that is found here."""
        return self._workshop.identity

    @property
    def tempo(self) -> Tempo:
        """How fast the original answers, and how many rows candidates were compared on."""
        return self._workshop.tempo

    def run(self) -> None:
        """Explore until the agenda is empty or the time is up; what was seen is in `found`.

        Raises `CompressError` when the original itself does not work on the data, `OSError` when the disk is full.
        """
        try:
            self._keep(self._weighed((), self._original.content, 0.0))
        except (Inapplicable, ModelRunError) as reason:
            raise CompressError(
                f"{self._original.name}: the model does not work on all of the data ({reason}), so that nothing can be "
                "compared with it; leave out the rows it cannot answer, or export it again"
            ) from reason
        except PassFailed as failure:
            raise CompressError(f"{self._original.name}: the model cannot be measured: {failure}") from failure
        while item := self._agenda.next(training=self._left_s() > LEAST_SLICE_S):
            if self._left_s() <= 0:
                break
            if isinstance(item, Question):
                self._ask(item)
            else:
                self._try(item)
        for name in self._passes:
            if name not in self._heard_of:
                self._drop(f"original: {name}", (), name, UNTRIED)

    def chosen(self) -> list[Candidate]:
        """The frontier of what may pass the gates, and the original; at most as many as may be published."""
        candidates = [c for c in self.found.candidates if not c.recipe or self._may_pass(c)]
        front = sorted({0, *frontier(candidates)})
        members = [candidates[at] for at in front]
        return [members[at] for at in thinned(members, self._options.most_variants, always=frozenset({0}))]

    def sensitivity(self) -> tuple[Sensitivity, ...]:
        """What each layer loses in static int8 alone: for the report. Empty where that pass was not tried."""
        step = next(
            (c.recipe[0] for c in self.found.candidates if c.recipe and c.recipe[0].name == "int8-static"), None
        )
        if not isinstance(step, Int8Static):
            return ()
        try:
            facts = self._workshop.sensitivity(step).facts
        except PassFailed:
            return ()
        return tuple(Sensitivity(**layer) for layer in facts.get("layers", ()))

    def _may_pass(self, candidate: Candidate) -> bool:
        """Whether the gates leave it a chance: a size is known, a loss only estimated."""
        size, loss = self._options.max_size_bytes, self._options.max_accuracy_loss
        lost = self.found.candidates[0].score - candidate.score
        return (size is None or len(candidate.content) <= size) and (loss is None or lost <= loss + GATE_SLACK)

    def _spend(self, seconds: float) -> None:
        self.found.spent_s += seconds
        self._tell_spent(self.found.spent_s)

    def _left_s(self) -> float:
        """Work that may still be spent on making candidates, seconds."""
        return self._options.time_budget_s * (1 - MEASURING_SHARE) - self.found.spent_s

    def _try(self, recipe: Recipe) -> None:
        name = self._name(recipe)
        self._progress(name, 0.0)
        try:
            candidate = self._made(recipe)
        except Inapplicable as reason:
            self._drop(name, recipe, recipe[-1].name, str(reason))
        except PassFailed as failure:
            self._drop_failed(name, recipe, recipe[-1].name, failure)
        else:
            self._keep(candidate)

    def _made(self, recipe: Recipe) -> Candidate:
        """Carry out the last step of a recipe. Raises `Inapplicable` and `PassFailed`."""
        left_s = self._left_s()
        allowed_s = min(left_s, max(left_s * SLICE_SHARE, LEAST_SLICE_S))
        made = self._paid(self._workshop.make(recipe, self._made_before(recipe[:-1]).content, allowed_s))
        if made.content is None:
            raise Inapplicable(made.facts["inapplicable"])
        return self._weighed(recipe, made.content, made.facts["seconds"])

    def _weighed(self, recipe: Recipe, content: bytes, seconds: float) -> Candidate:
        facts = self._paid(self._workshop.weigh(recipe, content)).facts
        if "inapplicable" in facts:
            raise Inapplicable(facts["inapplicable"])
        return Candidate(self._name(recipe), recipe, content, weight_from(facts), seconds)

    def _paid(self, entry: Entry) -> Entry:
        """What the work cost when it was done, now or in an earlier run, is spent."""
        self._spend(entry.facts["seconds"])
        return entry

    def _drop(self, name: str, recipe: Recipe, about: str, reason: str, traceback: Path | None = None) -> None:
        self._heard_of.add(about)
        self.found.dropped.append(Dropped(name, recipe, reason, traceback))

    def _drop_failed(self, name: str, recipe: Recipe, about: str, failure: PassFailed) -> None:
        self._spend(failure.seconds)
        self._drop(name, recipe, about, str(failure), failure.traceback)

    def _name(self, recipe: Recipe) -> str:
        """The label of a recipe, with a mark where it is too long or another recipe's too."""
        label = label_of(recipe)
        taken = [(c.name, c.recipe) for c in self.found.candidates] + [(d.name, d.recipe) for d in self.found.dropped]
        if len(label) <= LONGEST_NAME and all(name != label or other == recipe for name, other in taken):
            return label
        mark = hashlib.sha256(json.dumps([step.facts() for step in recipe]).encode()).hexdigest()[:6]
        return f"{label[: LONGEST_NAME - len(mark) - 1]}.{mark}"

    def _keep(self, candidate: Candidate) -> None:
        """Remember a candidate, and put what may follow it on the agenda."""
        before = list(self.found.candidates)
        self.found.candidates.append(candidate)
        self._heard_of.update(step.name for step in candidate.recipe)
        if not worth_extending(candidate.recipe, candidate, before):
            return
        for each in self._passes.values():
            if can_follow(each, candidate.recipe):
                question = Question(candidate.recipe, each)
                if each.trains and each.stage is Stage.SOURCE:  # finding out takes trial runs
                    self._agenda.ask(question, self._behind(candidate))
                else:
                    self._ask(question)

    def _ask(self, question: Question) -> None:
        """Put what a pass could do with a candidate on the agenda."""
        candidate = self._made_before(question.recipe)
        steps = self._choices(question.about, candidate)
        self._agenda.propose(candidate.recipe, steps, self._behind(candidate))

    def _behind(self, candidate: Candidate) -> float:
        """How much better the best is that is no slower."""
        rivals = [c.score for c in self.found.candidates if c.costs[0] <= candidate.costs[0]]
        return max(rivals) - candidate.score

    def _made_before(self, recipe: Recipe) -> Candidate:
        return next(candidate for candidate in self.found.candidates if candidate.recipe == recipe)

    def _choices(self, each: type[Step], candidate: Candidate) -> Sequence[Step]:
        """The settings of a pass worth trying on a candidate."""
        name = f"{candidate.name}: {each.name}"
        self._progress(name, 0.0)
        try:
            asked = self._workshop.choices(each, candidate.recipe, candidate.content, self._left_s())
        except PassFailed as failure:
            self._drop_failed(name, candidate.recipe, each.name, failure)
            return []
        facts = self._paid(asked).facts
        if "inapplicable" in facts:
            self._drop(name, candidate.recipe, each.name, facts["inapplicable"])
            return []
        return [self._step(step) for step in facts["choices"]]

    def _step(self, facts: Mapping[str, Any]) -> Step:
        """The step whose `facts` these are."""
        parameters = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items() if name != "pass"}
        build: Callable[..., Step] = self._passes[facts["pass"]]
        return build(**parameters)
