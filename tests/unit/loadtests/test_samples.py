import pytest

from loadtests.answers import CUT, UNSENT, Answer, Attempt
from loadtests.samples import MOST_PROBLEMS, Samples
from loadtests.workload import Call
from serving.core.budget import RequestBudget
from serving.core.outcome import Outcome

VARIANTS = ("large", "small")


def attempt(answer, latency_s=0.01, at_s=0.0, rows=1):
    return Attempt(Call(at_s, "tiny", rows, RequestBudget(latency_s=0.02), "k"), answer, latency_s, 0.001)


def test_in_time_is_judged_by_the_intended_send():
    samples = Samples()
    answer = Answer(200, variant="small", batch_rows=1)
    assert samples.add(attempt(answer, 0.02), 0, VARIANTS) is Outcome.MET
    assert samples.add(attempt(answer, 0.0201), 0, VARIANTS) is Outcome.LATE
    assert list(samples.columns["variant"]) == [1, 1]


def test_an_answer_of_an_unknown_variant_is_a_failure():
    samples = Samples()
    assert samples.add(attempt(Answer(200, variant="new", batch_rows=1)), 0, VARIANTS) is Outcome.FAILED
    (problem,) = samples.problems
    assert "'new'" in problem


def test_what_was_not_sent_is_counted_and_told():
    samples = Samples()
    samples.add(attempt(UNSENT), 0, VARIANTS)
    samples.add(attempt(CUT), 0, VARIANTS)
    assert samples.unsent == 1
    assert set(samples.problems.values()) == {1}


def test_refusals_by_load_are_no_problems_but_impossible_budgets_are():
    samples = Samples()
    for status in (429, 504, 422):
        samples.add(attempt(Answer(status, f"{status}: why")), 0, VARIANTS)
    assert samples.problems == {"422: why": 1}


def test_many_different_problems_are_bounded():
    samples = Samples()
    for number in range(3 * MOST_PROBLEMS):
        samples.add(attempt(Answer(500, f"500: {number}")), 0, VARIANTS)
    assert len(samples.problems) == MOST_PROBLEMS + 1
    assert samples.problems["other problems"] == 2 * MOST_PROBLEMS


def test_workers_tell_everything_once():
    worker, master = Samples(), Samples()
    for number in range(5):
        worker.add(
            attempt(UNSENT if number % 2 else Answer(200, variant="large", batch_rows=2), at_s=number), 3, VARIANTS
        )
        master.take(worker.news())
    master.take(worker.news())
    assert master.columns == worker.columns
    assert master.problems == worker.problems
    assert master.unsent == worker.unsent == 2
    assert list(master.columns["at_s"]) == pytest.approx(range(5))
