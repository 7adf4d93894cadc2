import orjson
import pytest

from loadtests.answers import CUT, UNSENT, Answer, outcome_of, read_answer
from serving.core.outcome import Outcome

TOLD = {"variant": "small", "batch_rows": 4, "compute_ms": 1.5}


def test_a_json_answer_tells_variant_and_batch():
    assert read_answer(200, None, orjson.dumps({"parameters": TOLD})) == Answer(200, "", "small", 4, 0.0015)


def test_a_binary_answer_is_read_up_to_its_tensors():
    head = orjson.dumps({"parameters": TOLD})
    assert read_answer(200, str(len(head)), head + b"\x00\xff") == Answer(200, "", "small", 4, 0.0015)


def test_refusals_keep_their_words():
    assert read_answer(429, None, b'{"error": "too much"}') == Answer(429, "429: too much")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": {}'])
def test_other_servers_answers_are_no_crash(body):
    assert read_answer(502, None, body) == Answer(502, "502")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}', b'{"parameters": null}', b"[1]"])
def test_a_200_of_something_else_is_no_success(body):
    answer = read_answer(200, None, body)
    assert answer.status == 0
    assert outcome_of(answer, in_time=True) is Outcome.FAILED


@pytest.mark.parametrize(
    ("status", "in_time", "outcome"),
    [
        (200, True, Outcome.MET),
        (200, False, Outcome.LATE),
        (422, True, Outcome.REJECTED),
        (429, True, Outcome.REJECTED),
        (504, False, Outcome.EXPIRED),
        (400, True, Outcome.FAILED),
        (500, True, Outcome.FAILED),
        (503, True, Outcome.FAILED),
        (0, True, Outcome.FAILED),
    ],
)
def test_outcomes_by_status(status, in_time, outcome):
    assert outcome_of(Answer(status), in_time=in_time) is outcome


def test_what_the_sender_did_itself():
    assert outcome_of(CUT, in_time=True) is Outcome.CANCELLED
    assert outcome_of(UNSENT, in_time=True) is Outcome.FAILED
