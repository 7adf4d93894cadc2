import dataclasses
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models.compress.passes.distill as module
from models.compress.cost import multiply_adds
from models.compress.dataset import Rows
from models.compress.errors import Inapplicable
from models.compress.original import Original, scores_of
from models.compress.passes.distill import Distill
from models.compress.step import Stage
from models.compress.students.inputs import kind_of
from models.compress.students.student import make
from models.compress.students.student import multiply_adds as student_multiply_adds
from models.compress.workbench import Workbench
from models.session import Session
from tests.support import compress


def agreement(model, original, dataset):
    verdicts = scores_of(Session(model.SerializeToString()), original.output.name, dataset.test).argmax(axis=1)
    return float((verdicts == original.scores(dataset.test).argmax(axis=1)).mean())


def test_a_student_of_a_quarter_of_the_work_agrees_with_the_original(tmp_path):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    step = Distill("separable", 16, 1, epochs=30)
    student = step.apply(original.model(), bench)
    assert multiply_adds(student) <= multiply_adds(original.model()) / 4
    assert len(student.SerializeToString()) <= len(original.content) / 3
    assert agreement(student, original, dataset) >= 0.94
    assert compress.accuracy(student, dataset) >= 0.94


def test_without_labels_it_learns_from_the_original_alone_and_equal_steps_make_equal_students(tmp_path):
    original, dataset = compress.digits_mlp()
    unlabelled = dataclasses.replace(dataset, train=Rows(dataset.train.inputs, None))
    step = Distill("perceptron", 32, 1, epochs=20)
    students = [
        step.apply(original.model(), compress.bench(original, unlabelled, tmp_path / folder)) for folder in "ab"
    ]
    assert multiply_adds(students[0]) <= multiply_adds(original.model()) / 10
    assert agreement(students[0], original, dataset) >= 0.95
    assert students[0].SerializeToString() == students[1].SerializeToString()


@pytest.mark.parametrize("made", [compress.digits_cnn, compress.digits_mlp, compress.digits_tokens])
def test_choices_are_students_from_a_half_down_to_a_thirtieth_of_the_work(tmp_path, made):
    original, dataset = made()
    bench = compress.bench(original, dataset, tmp_path)
    choices = Distill.choices(original.model(), bench)
    assert 2 <= len(choices) <= 4
    assert len({step.label for step in choices}) == len(choices)
    work = multiply_adds(original.model())
    kind = kind_of(dataset.train)
    shares = [student_multiply_adds(make(step.spec, kind, original.classes), dataset.train) / work for step in choices]
    assert all(share < 0.75 for share in shares)
    assert min(shares) < 1 / 7


def test_choices_fit_the_time_that_is_left(tmp_path, monkeypatch):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    monkeypatch.setattr(module, "epoch_s", lambda *_: 1.0)
    unhurried = Distill.choices(original.model(), bench)
    # A quarter of the time for each student, a second an epoch.
    hurried = Distill.choices(original.model(), with_time(bench, 100.0))
    assert [step.epochs for step in hurried] == [20] * len(unhurried)
    assert [step.spec for step in hurried] == [step.spec for step in unhurried]
    with pytest.raises(Inapplicable, match="8 s are too short to train a student"):
        Distill.choices(original.model(), with_time(bench, 8.3))


def with_time(bench, seconds):
    # Half a second more than asked: the clock goes on.
    return dataclasses.replace(bench, deadline_s=time.monotonic() + seconds + 0.05)


def linear(weights):
    """The scores of two classes from 5 numbers; without weights two of the numbers."""
    first = helper.make_node("MatMul", ["x", "weights"], ["product"])
    pick = helper.make_node("Gather", ["x" if weights is None else "product", "columns"], ["scores"], axis=1)
    graph = helper.make_graph(
        [pick] if weights is None else [first, pick],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("columns", TensorProto.INT64, [2], [0, 1])]
        + ([] if weights is None else [numpy_helper.from_array(weights, "weights")]),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize(
    ("weights", "reason"),
    [(None, "no convolutions or matrix products"), (np.eye(5, 2, dtype="f"), "as small as the smallest")],
)
def test_a_model_smaller_than_every_student_is_left_alone(tmp_path, weights, reason):
    model = linear(weights)
    session = Session(model.SerializeToString())
    rows = Rows({"x": np.random.default_rng(0).normal(size=(50, 5)).astype("f")}, None)
    original = Original("linear", model.SerializeToString(), session.inputs, session.outputs[0])
    with pytest.raises(Inapplicable, match=reason):
        Distill.choices(model, Workbench(original, rows, rows, tmp_path))


def test_a_student_for_other_inputs_and_a_student_without_time_are_told(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    with pytest.raises(Inapplicable, match="residual: such a student cannot read this model's inputs"):
        Distill("residual", 8, 1, epochs=1).apply(original.model(), bench)
    late = dataclasses.replace(bench, deadline_s=time.monotonic())
    with pytest.raises(Inapplicable, match="perceptron.8x1: no time was left to train it"):
        Distill("perceptron", 8, 1, epochs=1).apply(original.model(), late)


def test_the_step_names_itself_and_its_parameters():
    step = Distill("fire", 24, 2, epochs=7)
    assert step.label == "fire.24x2"
    assert Distill(**{name: value for name, value in step.facts().items() if name != "pass"}) == step
    assert (Distill.stage, Distill.trains) == (Stage.SOURCE, True)
    assert (step.plan.epochs, step.plan.batch_rows, step.plan.temperature) == (7, 64, 4.0)
