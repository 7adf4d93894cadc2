import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from models.compress.dataset import Rows
from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.compress.students.inputs import kind_of
from models.compress.students.student import StudentSpec, make
from models.compress.training import TrainingPlan, distillation_loss, learn, learning_rate, scores_of_module
from tests.support import compress

PLAN = TrainingPlan(epochs=4, batch_rows=64)


def student_of(bench, seed=0):
    return make(StudentSpec("perceptron", 16, 1), kind_of(bench.train), bench.original.classes, seed)


@pytest.fixture
def bench(tmp_path):
    return compress.bench(*compress.digits_mlp(), tmp_path)


def test_the_loss_is_what_a_hand_computes():
    # Two classes, temperature 2: the original is sure by ln 9, which 2 makes ln 3, so 3/4 and 1/4.
    answers = torch.tensor([[math.log(9.0), 0.0]])
    logits = torch.tensor([[0.0, 0.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    soft = distillation_loss(logits, answers, None, temperature=2.0, label_weight=0.3)
    assert soft.item() == pytest.approx(4.0 * divergence)
    # The label costs ln 2 at even odds; it has 0.3 of the whole.
    both = distillation_loss(logits, answers, torch.tensor([1]), temperature=2.0, label_weight=0.3)
    assert both.item() == pytest.approx(0.7 * 4.0 * divergence + 0.3 * math.log(2.0))


def test_a_student_that_agrees_costs_nothing_at_any_temperature():
    answers = torch.randn(8, 5)
    for temperature in (1.0, 4.0):
        # Logits may differ by a constant a row.
        loss = distillation_loss(answers + 3.0, answers, None, temperature=temperature, label_weight=0.0)
        assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_the_rate_rises_a_fifth_of_the_way_and_then_falls_to_nothing():
    rates = [learning_rate(share, 0.1) for share in np.linspace(0, 1, 101)]
    assert max(rates) == rates[20] == pytest.approx(0.1)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[0] > 0.0
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_a_student_learns_from_the_original_alone_what_labels_would_have_told(bench):
    unlabelled = dataclasses.replace(bench, train=Rows(bench.train.inputs, None))
    student = student_of(bench)
    learned = learn(student, unlabelled, dataclasses.replace(PLAN, epochs=15), "unlabelled")
    assert learned.score >= 0.9
    assert learned.scores[0] < 0.3
    assert learned.score == max(learned.scores) == learned.scores[learned.best_epoch]
    assert (learned.epochs, learned.cut_short, student.training) == (15, False, False)
    # What it reports is what the module does.
    verdicts = scores_of_module(student, bench.validation).argmax(axis=1)
    assert (verdicts == bench.verdicts).mean() == learned.score


class Killed(Exception):
    pass


def test_a_run_that_was_killed_ends_as_one_that_was_not(bench, tmp_path):
    whole, broken = student_of(bench), student_of(bench)
    expected = learn(whole, dataclasses.replace(bench, folder=tmp_path / "whole"), PLAN, "run")

    def kill(what, _share):
        if "epoch 2" in what:
            raise Killed

    with pytest.raises(Killed):
        learn(broken, dataclasses.replace(bench, progress=kill), PLAN, "run")
    broken = student_of(bench)
    seen = []
    learned = learn(broken, dataclasses.replace(bench, progress=lambda what, _share: seen.append(what)), PLAN, "run")
    assert [what.split(",")[0] for what in seen] == ["run: epoch 3 of 4", "run: epoch 4 of 4"]
    assert (learned.scores, learned.best_epoch) == (expected.scores, expected.best_epoch)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, broken.state_dict()[name]), name
    # Asked again it is read, not trained.
    assert learn(student_of(bench), dataclasses.replace(bench, progress=kill), PLAN, "run").scores == expected.scores


def test_a_state_of_another_start_or_plan_is_left_alone(bench):
    first = learn(student_of(bench), bench, PLAN, "run")
    other = learn(student_of(bench, seed=1), bench, PLAN, "run")
    hotter = learn(student_of(bench), bench, dataclasses.replace(PLAN, temperature=1.0), "run")
    assert len({first.scores, other.scores, hotter.scores}) == 3


def test_without_time_nothing_is_trained_and_it_says_so(bench):
    student = student_of(bench)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    learned = learn(student, dataclasses.replace(bench, deadline_s=time.monotonic()), PLAN, "late")
    assert (learned.epochs, learned.best_epoch, learned.cut_short) == (0, 0, True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_a_module_that_only_gets_worse_stays_as_it_came(bench):
    student = student_of(bench)
    learn(student, bench, dataclasses.replace(PLAN, epochs=15), "first")
    worse = learn(student, bench, dataclasses.replace(PLAN, epochs=2, peak_rate=3.0), "second")
    assert worse.best_epoch == 0
    assert worse.score == worse.scores[0] >= 0.9


def test_a_loss_that_is_no_number_is_told(bench):
    with pytest.raises(Inapplicable, match="diverged in epoch 1 at a peak rate of 1e"):
        learn(student_of(bench), bench, dataclasses.replace(PLAN, peak_rate=1e30), "wild")


def test_threads_and_randomness_of_the_process_are_left_as_they_were(bench):
    before = torch.get_num_threads()
    state = torch.get_rng_state()
    seen = []
    progress = lambda *_: seen.append(torch.get_num_threads())  # noqa: E731 - shorter than a function here
    learn(student_of(bench), dataclasses.replace(bench, threads=before + 1, progress=progress), PLAN, "polite")
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_any_module_from_inputs_to_logits_can_be_taught(bench):
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, inputs):
            return self.layer(inputs["pixels"])

    learned = learn(Linear(), bench, PLAN, "linear")
    agreement = scores_of(bench.original.session, "scores", bench.validation).argmax(axis=1) == bench.verdicts
    assert 0.8 <= learned.score <= agreement.mean() + 0.05
