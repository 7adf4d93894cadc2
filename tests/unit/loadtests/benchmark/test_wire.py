import json

import httpx
import numpy as np
import pytest

from loadtests.benchmark.wire import HEADER_LENGTH, AnswerError, decode_answer, encode_request

ROWS = np.array([[0.25, -1.5, 3.0]], dtype=np.float32)


def test_a_json_request_carries_its_data_in_the_body():
    payload = encode_request(ROWS, "json")
    assert payload.headers == {"Content-Type": "application/json"}
    (tensor,) = json.loads(payload.body)["inputs"]
    assert tensor == {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [0.25, -1.5, 3.0]}


def test_a_binary_request_names_the_length_of_its_header_and_asks_for_a_binary_answer():
    payload = encode_request(ROWS, "binary")
    split = int(payload.headers[HEADER_LENGTH])
    head = json.loads(payload.body[:split])
    assert head["inputs"][0]["parameters"] == {"binary_data_size": 12}
    assert head["parameters"] == {"binary_data_output": True}
    assert "data" not in head["inputs"][0]
    assert payload.body[split:] == ROWS.astype("<f4").tobytes()


def answer(**changes):
    tensor = {"name": "output", "datatype": "FP32", "shape": [1, 3], "data": [0.25, -1.5, 3.0]} | changes
    return json.dumps({"outputs": [{"name": "other", "shape": [1]}, tensor]}).encode()


@pytest.mark.parametrize("data", [[0.25, -1.5, 3.0], [[0.25, -1.5, 3.0]]])
def test_a_json_answer_is_read_flat_or_nested(data):
    np.testing.assert_array_equal(decode_answer(answer(data=data), {}), ROWS)


def test_a_binary_answer_is_read_whatever_the_case_of_its_header():
    head = json.dumps({"outputs": [{"name": "output", "datatype": "FP32", "shape": [1, 3]}]}).encode()
    headers = httpx.Headers({HEADER_LENGTH.lower(): str(len(head))})
    np.testing.assert_array_equal(decode_answer(head + ROWS.tobytes(), headers), ROWS)


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"{}", b'{"outputs":[]}', answer(name="x"), answer(shape=[1, 4]), answer(data=["a"])],
)
def test_what_is_not_an_answer_is_refused(body):
    with pytest.raises(AnswerError, match="cannot read the answer"):
        decode_answer(body, {})
