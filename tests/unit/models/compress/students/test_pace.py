import dataclasses
from math import inf

import pytest

from models.compress.students.inputs import kind_of
from models.compress.students.pace import epoch_s, unhurried, within
from models.compress.students.student import StudentSpec, make
from tests.support import compress


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"), [(10, 150, 64), (1258, 150, 64), (6400, 30, 64), (60_000, 30, 128)]
)
def test_few_rows_are_seen_more_often(rows, epochs, batch):
    plan = unhurried(rows, "residual")
    assert (plan.epochs, plan.batch_rows) == (epochs, batch)
    assert unhurried(rows, "transformer").peak_rate < plan.peak_rate


def test_epochs_that_fit_are_taken_from_a_ladder():
    plan = unhurried(1258, "residual")
    assert within(plan, 1.0, inf) == plan
    assert within(plan, 1.0, 1000.0) == plan
    assert within(plan, 1.0, 29.0) == dataclasses.replace(plan, epochs=20)
    # A little noise in the pace asks for the same.
    assert within(plan, 1.0, 99.0) == within(plan, 1.04, 99.0) == within(plan, 1.3, 99.0)
    assert within(plan, 10.0, 9.0) is None


def test_the_pace_is_of_a_whole_epoch_and_leaves_the_student_as_it_was(tmp_path):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    student = make(StudentSpec("separable", 8, 1), kind_of(dataset.train), 10)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    plan = unhurried(len(dataset.train), "separable")
    assert epoch_s(student, dataset.train, plan, bench) > 0.0
    assert all((tensor == before[name]).all() for name, tensor in student.state_dict().items())
