from pathlib import Path

import pytest

from loadtests.benchmark.oracle import Oracle, WrongAnswerError
from loadtests.benchmark.running import running
from loadtests.benchmark.servers import free_place

pytestmark = pytest.mark.server


@pytest.fixture
def serve(stub, tmp_path):
    def start(fault):
        place = free_place(Path("unused.onnx"))
        spec = stub(fault)
        return running(spec, place, tmp_path, {}), spec.url(place, spec.infer_path)

    return start


def test_right_answers_pass_in_both_formats(serve, oracle):
    server, url = serve("none")
    with server:
        oracle.check(url, "json")
        oracle.check(url, "binary")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("wrong", r"json: row 0 is off by"),
        ("short", r"json: shape \(1, 9\), expected \(1, 10\)"),
        ("error", r"json: status 500: .*out of order"),
    ],
)
def test_wrong_answers_and_errors_are_told(serve, oracle, fault, said):
    server, url = serve(fault)
    with server, pytest.raises(WrongAnswerError, match=said):
        oracle.check(url, "json")


def test_answers_to_other_rows_are_found(serve, oracle):
    server, url = serve("none")
    mixed_up = Oracle(oracle.rows, oracle.expected[::-1])
    with server, pytest.raises(WrongAnswerError, match="binary: row"):
        mixed_up.check(url, "binary")


def test_a_nan_is_never_right(serve, oracle):
    server, url = serve("nan")
    with server, pytest.raises(WrongAnswerError, match="binary: row 0 is off by nan"):
        oracle.check(url, "binary")


def test_no_answer_is_told(oracle):
    place = free_place(Path("unused.onnx"))
    with pytest.raises(WrongAnswerError, match="json: no answer: ConnectError"):
        oracle.check(f"http://127.0.0.1:{place.port}/", "json")
