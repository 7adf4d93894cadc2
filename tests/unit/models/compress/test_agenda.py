"""Recipes grow a step at a time, cheap ones first."""

import dataclasses
from typing import ClassVar

from models.compress.agenda import Agenda, worth_extending
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


def test_what_does_not_train_goes_first():
    agenda = Agenda()
    agenda.propose((), [Slow()])
    agenda.propose((), [Quick(1), Quick(2)])
    order = [agenda.next(training=True) for _ in range(3)]
    assert order == [(Quick(1),), (Quick(2),), (Slow(),)]
    assert agenda.next(training=True) is None


def test_without_time_to_train_only_the_rest_is_tried():
    agenda = Agenda()
    agenda.propose((), [Slow(), Quick()])
    assert agenda.next(training=False) == (Quick(),)
    assert agenda.next(training=False) is None
    assert len(agenda) == 1


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


def test_what_lost_too_much_or_is_finished_is_not_extended():
    original = Rating(0.95, (1.0,))
    assert worth_extending((Quick(),), Rating(0.9, (0.5,)), original)
    assert not worth_extending((Quick(),), Rating(0.8, (0.1,)), original)
    assert not worth_extending((Last(),), Rating(0.95, (0.5,)), original)


def test_names_tell_the_steps():
    assert label_of(()) == "original"
    assert label_of((Slow(), Quick())) == "slow-quick"
