"""Exploring compositions of passes: grow recipes, make what they say, weigh it, keep the frontier.

Everything made is remembered under the hash of what it depends on (`store`). The time budget counts work, also
work that an earlier run did: the same command, run again, makes the same choices and does nothing twice; run
after a kill, it goes on; run with a larger budget, it goes further.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import onnx

from models.compress.agenda import Agenda, Question, worth_extending
from models.compress.dataset import Dataset
from models.compress.errors import CompressError, Inapplicable
from models.compress.frontier import frontier, thinned
from models.compress.original import Original
from models.compress.passes.int8_static import Int8Static
from models.compress.passes.registry import PASSES
from models.compress.sensitivity import Sensitivity, sensitivities
from models.compress.step import Recipe, Stage, Step, can_follow, label_of
from models.compress.store import Store, key_of
from models.compress.weigh import Weight, weigh, weight_from
from models.compress.workbench import Progress, Workbench
from models.session import ModelLoadError, ModelRunError, onnxruntime

MEASURING_SHARE = 0.2
"""Part of the time budget kept for the final measurement."""
SLICE_SHARE = 1 / 3
"""Part of the time left that one training step may take."""
LEAST_SLICE_S = 20.0
"""With less time left than this no training is begun."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller allows and wants."""

    passes: tuple[str, ...] = tuple(PASSES)
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

    recipe: Recipe
    content: bytes
    weight: Weight
    seconds: float
    """Time it took to make, the steps before the last not counted."""

    @property
    def name(self) -> str:
        """As the variant will be called."""
        return label_of(self.recipe)

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
        passes: Mapping[str, type[Step]] = PASSES,
    ) -> None:
        """Raises `CompressError` for a pass that does not exist."""
        unknown = [name for name in options.passes if name not in passes]
        if unknown:
            raise CompressError(f"no pass '{unknown[0]}'; there are: {', '.join(passes)}")
        self._passes = {name: each for name, each in passes.items() if name in options.passes}
        self._options = options
        self._store = store
        self._progress = progress
        self._tell_spent = spent
        self._original = original
        self._data = data
        self.identity = [original.sha256, data.digest, options.seed, onnxruntime().__version__, onnx.__version__]
        self.found = Findings()
        self._known: dict[str, Any] = {}
        self._agenda = Agenda()

    def run(self) -> None:
        """Explore until the agenda is empty or the time is up; what was seen is in `found`."""
        self._keep(self._weighed((), self._original.content, 0.0))
        while item := self._agenda.next(training=self._left_s() > LEAST_SLICE_S):
            if self._left_s() <= 0:
                break
            if isinstance(item, Question):
                self._ask(item)
            else:
                self._try(item)

    def chosen(self) -> list[Candidate]:
        """The frontier of what was found, and the original; at most as many as may be published."""
        candidates = self.found.candidates
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
        key = key_of(self.identity, "sensitivity", step.facts())
        known = self._store.recall(key)
        if known is None:
            table = sensitivities(step, self._original.model(), self._bench(key, inf))
            self._store.keep(key, {"layers": [layer.facts() for layer in table]})
            return table
        return tuple(Sensitivity(**facts) for facts in known.facts["layers"])

    def _spend(self, seconds: float) -> None:
        self.found.spent_s += seconds
        self._tell_spent(self.found.spent_s)

    def _left_s(self) -> float:
        """Work that may still be spent on making candidates, seconds."""
        return self._options.time_budget_s * (1 - MEASURING_SHARE) - self.found.spent_s

    def _try(self, recipe: Recipe) -> None:
        name = label_of(recipe)
        self._progress(name, 0.0)
        parent = self._made_before(recipe[:-1])
        try:
            candidate = self._made(recipe, parent)
        except Inapplicable as reason:
            self.found.dropped.append(Dropped(name, recipe, str(reason)))
            return
        self._keep(candidate)

    def _made(self, recipe: Recipe, parent: Candidate) -> Candidate:
        """Carry out the last step of a recipe, or remember it. Raises `Inapplicable`."""
        key = key_of(self.identity, "model", [step.facts() for step in recipe])
        known = self._store.recall(key)
        if known is None:
            began_s = time.monotonic()
            bench = self._bench(key, min(self._left_s(), max(self._left_s() * SLICE_SHARE, LEAST_SLICE_S)))
            try:
                content = recipe[-1].apply(onnx.load_from_string(parent.content), bench).SerializeToString()
            except Inapplicable as reason:
                self._store.keep(key, {"seconds": time.monotonic() - began_s, "inapplicable": str(reason)})
            else:
                self._store.keep(key, {"seconds": time.monotonic() - began_s}, content)
            known = self._store.recall(key)
            if known is None:
                raise CompressError(f"the cache cannot be read back: is the disk of {bench.folder} full?")
        self._spend(known.facts["seconds"])
        if known.content is None:
            raise Inapplicable(known.facts["inapplicable"])
        return self._weighed(recipe, known.content, known.facts["seconds"])

    def _weighed(self, recipe: Recipe, content: bytes, seconds: float) -> Candidate:
        key = key_of(self.identity, "weight", [step.facts() for step in recipe])
        known = self._store.recall(key)
        if known is None:
            began_s = time.monotonic()
            try:
                weight = weigh(content, self._bench(key, inf))
            except (ModelLoadError, ModelRunError) as error:
                raise Inapplicable(f"what it makes does not run: {error}") from error
            facts = {**weight.facts(), "seconds": time.monotonic() - began_s}
            self._store.keep(key, facts)
        else:
            weight, facts = weight_from(known.facts), dict(known.facts)
        self._spend(facts["seconds"])
        return Candidate(recipe, content, weight, seconds)

    def _keep(self, candidate: Candidate) -> None:
        """Remember a candidate, and put what may follow it on the agenda."""
        before = list(self.found.candidates)
        self.found.candidates.append(candidate)
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
        """The settings of a pass worth trying on a candidate, remembered like everything else."""
        key = key_of(self.identity, "choices", each.name, [step.facts() for step in candidate.recipe])
        known = self._store.recall(key)
        if known is None:
            began_s = time.monotonic()
            self._progress(f"{candidate.name}: {each.name}", 0.0)
            try:
                choices = each.choices(onnx.load_from_string(candidate.content), self._bench(key, self._left_s()))
                facts: dict[str, Any] = {"choices": [step.facts() for step in choices]}
            except Inapplicable as reason:
                facts = {"choices": [], "inapplicable": str(reason)}
            facts["seconds"] = time.monotonic() - began_s
            self._store.keep(key, facts)
        else:
            facts = dict(known.facts)
        self._spend(facts["seconds"])
        if "inapplicable" in facts:
            name = f"{candidate.name}: {each.name}"
            self.found.dropped.append(Dropped(name, candidate.recipe, facts["inapplicable"]))
        return [self._step(step) for step in facts["choices"]]

    def _step(self, facts: Mapping[str, Any]) -> Step:
        """The step whose `facts` these are."""
        parameters = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items() if name != "pass"}
        build: Callable[..., Step] = self._passes[facts["pass"]]
        return build(**parameters)

    def _bench(self, key: str, allowed_s: float) -> Workbench:
        return Workbench(
            original=self._original,
            train=self._data.train,
            validation=self._data.validation,
            folder=self._store.folder(key),
            seed=self._options.seed,
            threads=self._options.threads,
            deadline_s=time.monotonic() + allowed_s,
            progress=self._progress,
            known=self._known,
        )
