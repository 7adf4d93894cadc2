"""Recipes grow a step at a time, cheap ones first."""

import dataclasses
from typing import ClassVar

import pytest

from models.compress.agenda import Agenda, Question, worth_extending
from models.compress.frontier import Rating
from models.compress.step import Stage, Step, can_follow, label_of


class _Plain(Step):
    def apply(self, model, bench):
        return model

    @classmethod
    def choices(cls, model, bench):
        return [cls()]

    @property
    def label(self):
        return self.name


@dataclasses.dataclass(frozen=True, slots=True)
class Quick(_Plain):
    name: ClassVar[str] = "quick"
    stage: ClassVar[Stage] = Stage.PRECISION
    strength: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Slow(_Plain):
    name: ClassVar[str] = "slow"
    stage: ClassVar[Stage] = Stage.SOURCE
    trains: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, slots=True)
class Last(_Plain):
    name: ClassVar[str] = "last"
    stage: ClassVar[Stage] = Stage.FUSE


def test_training_waits_for_what_takes_seconds_in_the_same_round():
    agenda = Agenda()
    agenda.propose((), [Slow()])
    agenda.propose((), [Quick(1), Quick(2)])
    order = [agenda.next(training=True) for _ in range(3)]
    assert order == [(Quick(1),), (Slow(),), (Quick(2),)]
    assert agenda.next(training=True) is None


def test_without_time_to_train_only_the_rest_is_tried():
    agenda = Agenda()
    agenda.propose((), [Slow()])
    agenda.ask(Question((), Slow))
    agenda.propose((), [Quick()])
    assert agenda.next(training=False) == (Quick(),)
    assert agenda.next(training=False) is None


def test_a_question_comes_before_what_may_come_of_it():
    agenda = Agenda()
    agenda.ask(Question((), Slow))
    agenda.propose((), [Slow()])
    assert agenda.next(training=True) == Question((), Slow)
    assert agenda.next(training=True) == (Slow(),)


def test_first_choices_and_members_of_the_frontier_go_before_others():
    agenda = Agenda()
    agenda.propose((Slow(),), [Quick(1)], behind=0.2)
    agenda.propose((Slow(),), [Quick(2), Quick(3)], behind=0.0)
    assert [agenda.next(training=True)[-1] for _ in range(3)] == [Quick(2), Quick(1), Quick(3)]


def test_stages_rise_and_a_source_comes_first():
    assert can_follow(Slow, ())
    assert can_follow(Quick, (Slow(),))
    assert not can_follow(Slow, (Slow(),))
    assert not can_follow(Slow, (Quick(),))
    assert not can_follow(Quick, (Quick(1),))


ORIGINAL = Rating(0.95, (1.0,))


@pytest.mark.parametrize(
    ("recipe", "score", "latency", "expected"),
    [
        ((), 0.95, 1.0, True),
        ((Quick(),), 0.93, 0.5, True),
        ((Quick(),), 0.80, 0.1, False),  # lost too much
        ((Quick(),), 0.94, 1.2, False),  # dominated by the original
        ((Quick(),), 0.95, 1.0, False),  # not to be told from it
        ((Slow(),), 0.94, 1.2, True),  # dominated, but a new model to work on
        ((Slow(), Quick(), Quick(), Quick()), 0.95, 0.1, False),  # long enough
    ],
)
def test_what_is_extended(recipe, score, latency, expected):
    assert worth_extending(recipe, Rating(score, (latency,)), [ORIGINAL]) is expected


def test_names_tell_the_steps():
    assert label_of(()) == "original"
    assert label_of((Slow(), Quick())) == "slow-quick"
