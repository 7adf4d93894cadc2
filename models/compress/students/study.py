"""A study of students: measured latency on this host against validation score.

Each trial is one network. Before it is trained its latency is measured, in turns with the original's. Then it
is trained in rungs: a few epochs first, and only the better third goes on (asynchronous successive halving,
Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020; "better" is by dominance, for there
are two objectives). What to try next is proposed by a tree-structured Parzen estimator for several objectives
(Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", 2022).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import inf

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from models.compress.cost import multiply_adds
from models.compress.errors import Inapplicable
from models.compress.export import exported
from models.compress.students.inputs import Kind, kind_of
from models.compress.students.layers import Student
from models.compress.students.pace import RATES
from models.compress.students.student import StudentSpec, families, make, sizes_up_to
from models.compress.training import PEAK_RATE, Learned, TrainingPlan, learn
from models.compress.weigh import weigh
from models.compress.workbench import Workbench

RUNGS = (1 / 9, 1 / 3, 1.0)
"""Shares of the epochs after which trials are compared; each is a third of the next."""
KEPT = 1 / 3
"""Share of the trials at a rung that go on."""
STARTUP = 8
"""Trials chosen at random before the estimator has something to go by."""
PARAMETERS = 2
"""Of a trial: the family, and a place among its sizes."""
SEARCH_SHARE = 0.7
"""Part of the time left that the study may take; the rest is for training what it chose to the end."""
WORTH = 0.1
"""Score that is worth as much as all of the original's latency: a point of accuracy for a tenth of it."""
REPEATS = 25
"""Proposals in a row of networks already tried after which the study has nothing more to say."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one trial."""

    spec: StudentSpec
    rung: int
    """Rungs it has finished; 0 where it was not worth training."""
    score: float
    """Share of validation rows right after its last rung, 0 to 1."""
    latency: float
    """Time of one row as a ratio to the original's."""

    def dominates(self, other: "Found") -> bool:
        """Whether it is better in one respect and worse in none."""
        return (
            self.score >= other.score
            and self.latency <= other.latency
            and (self.score > other.score or self.latency < other.latency)
        )


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """How much to look at, and for what."""

    trials: int
    """Networks to look at."""
    epochs: int
    """Passes of the last rung."""
    batch_rows: int
    latency_share: float | None
    """The most accurate network within this ratio of the original's latency; None: the best trade-off (`WORTH`)."""

    def training(self, spec: StudentSpec, rung: int) -> TrainingPlan:
        """How a network is trained to climb from one rung, counted from 0, to the next."""
        epochs = max(1, round(self.epochs * RUNGS[rung]))
        peak_rate = RATES.get(spec.family, PEAK_RATE)
        return TrainingPlan(epochs=epochs, batch_rows=self.batch_rows, peak_rate=peak_rate)


class Study:
    """The trials of one search, kept in the bench's folder: a study that was killed goes on."""

    def __init__(self, plan: StudyPlan, bench: Workbench) -> None:
        """Opens the study, or begins it."""
        self.plan, self.bench = plan, bench
        self.kind: Kind = kind_of(bench.train)
        bench.folder.mkdir(parents=True, exist_ok=True)
        name = f"{bench.original.sha256[:16]} {bench.seed} {asdict(plan)}"
        with _quiet():
            self._optuna = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(bench.folder / "study.journal"))),
                study_name=name,
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
        self._space = _space(self.kind, bench)
        if not self._space:
            raise Inapplicable("no student is smaller: the model is as small as the smallest of them")
        if not self._optuna.trials:
            # The smallest of each family are the most likely to be faster; the estimator learns from them.
            for family, sizes in self._space.items():
                smallest = min(sizes, key=lambda spec: (spec.depth, spec.width))
                self._optuna.enqueue_trial({"family": family, f"size of {family}": sizes.index(smallest)})
        self._reserve_s = 0.0 if bench.time_left_s == inf else bench.time_left_s * (1 - SEARCH_SHARE)

    @property
    def found(self) -> list[Found]:
        """What became of the trials that ended, each network once, in the order they began."""
        kept = self._optuna.user_attrs
        facts = [kept[f"trial {trial.number}"] for trial in self._optuna.get_trials(states=(TrialState.COMPLETE,))]
        all_of_them = [Found(**{**each, "spec": StudentSpec(**each["spec"])}) for each in facts]
        return list({each.spec: each for each in all_of_them}.values())

    @property
    def _done(self) -> float:
        return min(1.0, len(self.found) / self.plan.trials)

    def run(self) -> StudentSpec:
        """Try networks until there are enough of them or the time is up, and choose one.

        What was chosen stays chosen. Raises `Inapplicable` when nothing good was found.
        """
        chosen = self._optuna.user_attrs.get("chosen")
        if chosen is not None:
            return StudentSpec(**chosen)
        for trial in self._optuna.get_trials(states=(TrialState.RUNNING,)):
            if len(trial.params) == PARAMETERS:
                self._finish(trial)
            else:
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        repeats = 0
        while len(self.found) < self.plan.trials and repeats < REPEATS and self.bench.time_left_s > self._reserve_s:
            # A sampler of its own for each trial: one that goes on after a kill proposes what it would have.
            number = len(self._optuna.trials)
            self._optuna.sampler = optuna.samplers.TPESampler(
                seed=self.bench.seed * 100_003 + number, n_startup_trials=STARTUP
            )
            before = len(self.found)
            self._finish(self._optuna.ask())
            repeats = 0 if len(self.found) > before else repeats + 1
        original_score = self.bench.score(self.bench.original.model())
        spec = choose(self.found, self.plan.latency_share, original_score)
        self._optuna.set_user_attr("chosen", asdict(spec))
        return spec

    def train(self, student: Student, spec: StudentSpec, rung: int, bench: Workbench) -> Learned:
        """Train a network that has the rungs below this one behind it; what was done before is read from disk."""
        return learn(student, bench, self.plan.training(spec, rung), f"search {spec.label} rung {rung + 1}")

    def _finish(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> None:
        """Carry a trial out as far as it deserves, and tell the study."""
        family = trial.suggest_categorical("family", tuple(self._space))
        sizes = self._space[family]
        spec = sizes[trial.suggest_int(f"size of {family}", 0, len(sizes) - 1)]
        known = next((each for each in self.found if each.spec == spec), None)
        found = known or self._tried(spec)
        self._optuna.set_user_attr(f"trial {trial.number}", asdict(found))
        self._optuna.tell(trial.number, (found.score, found.latency))
        self.bench.progress(f"search: {spec.label}, {found.score:.1%} right", self._done)

    def _tried(self, spec: StudentSpec) -> Found:
        student = make(spec, self.kind, self.bench.original.classes, self.bench.seed)
        content = exported(student, self.bench).SerializeToString()
        latency = weigh(content, self.bench).latency[0]
        found = Found(spec, 0, 0.0, latency)
        if latency >= 1.0 or latency > (self.plan.latency_share or inf):
            return found
        done = self._done
        bench = replace(
            self.bench,
            deadline_s=self.bench.deadline_s - self._reserve_s,
            progress=lambda what, _share: self.bench.progress(what, done),
        )
        for rung in range(len(RUNGS)):
            learned = self.train(student, spec, rung, bench)
            if learned.cut_short:
                break
            found = replace(found, rung=rung + 1, score=learned.score)
            if not goes_on(found, self.found):
                break
        return found


def _space(kind: Kind, bench: Workbench) -> dict[str, list[StudentSpec]]:
    """The students of each family with no more multiply-adds than the original, in rising order of them.

    One axis a family, and neighbours on it alike: what an estimator of few trials can learn. Where the original
    does something else than multiply and add, its latency alone says what is too large.
    """
    work = multiply_adds(bench.original.model()) or inf
    sizes = sizes_up_to(work, kind, bench.original.classes, bench.train)
    fitting = sorted(sizes, key=lambda spec: sizes[spec])
    space = {family: [spec for spec in fitting if spec.family == family] for family in families(kind)}
    return {family: specs for family, specs in space.items() if specs}


def goes_on(found: Found, others: Sequence[Found]) -> bool:
    """Whether a trial is among the better of those that finished as many rungs: is it dominated by few enough."""
    rivals = [other for other in others if other.rung >= found.rung]
    ahead = sum(other.dominates(found) for other in rivals)
    return ahead < KEPT * (len(rivals) + 1)


def choose(found: Sequence[Found], latency_share: float | None, original_score: float) -> StudentSpec:
    """The network to take, of those that went furthest; always one that no other of them dominates.

    Raises `Inapplicable` when there is none.
    """
    furthest = max((each.rung for each in found), default=0)
    if not furthest:
        raise Inapplicable("the search found no network that is faster than the original here")
    finished = [each for each in found if each.rung == furthest]
    if latency_share is not None:
        return max(finished, key=lambda each: (each.score, -each.latency)).spec
    return max(finished, key=lambda each: (each.score - original_score) / WORTH - each.latency).spec


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own lines: progress is told by the bench."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
