import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from models.session import ModelLoadError, ModelRunError, Session
from tests.support import tiny_models


def tagged(*tags: float) -> dict[str, np.ndarray]:
    rows = np.array(tags, np.float32).reshape(-1, 1)
    return {"x": np.hstack([rows, rows + 1]), "tag": rows}


def test_the_graph_says_what_it_takes_and_gives() -> None:
    session = Session(tiny_models.pair())
    assert [(s.name, s.datatype, s.shape) for s in session.inputs] == [("a", "FP32", (-1, 3)), ("b", "INT64", (-1, 2))]
    assert [(s.name, s.datatype, s.shape) for s in session.outputs] == [
        ("doubled", "FP32", (-1, 3)),
        ("next", "INT64", (-1, 2)),
    ]
    assert Session(tiny_models.fixed()).inputs[0].shape == (2, 3)
    assert Session(tiny_models.free()).inputs[0].shape == (-1, -1)


def test_several_inputs_and_outputs() -> None:
    outputs = Session(tiny_models.pair()).run({"a": np.ones((2, 3), np.float32), "b": np.zeros((2, 2), np.int64)})
    np.testing.assert_array_equal(outputs["doubled"], np.full((2, 3), 2))
    np.testing.assert_array_equal(outputs["next"], np.ones((2, 2)))


def test_rows_keep_their_order() -> None:
    outputs = Session(tiny_models.affine()).run(tagged(5, 1, 9))
    np.testing.assert_array_equal(outputs["who"], [[5], [1], [9]])
    np.testing.assert_array_equal(outputs["y"], [[15, 17], [3, 5], [27, 29]])


def test_one_session_serves_several_threads() -> None:
    session = Session(tiny_models.affine())

    def run(tag: int) -> bool:
        return bool((session.run(tagged(tag, tag))["who"] == tag).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(run, range(200)))


def test_texts_come_back_as_bytes() -> None:
    session = Session(tiny_models.text())
    assert session.inputs[0].datatype == "BYTES"
    texts = np.array([[b"plain", "Größe 🙂".encode()], [b"", b"a\0b"]], dtype=object)
    same = session.run({"text": texts})["same"]
    assert same.dtype == object
    assert same.shape == (2, 2)
    assert same.tolist()[0] == texts.tolist()[0]
    assert same.tolist()[1][0] == b""


def test_texts_may_be_given_as_text() -> None:
    same = Session(tiny_models.text()).run({"text": np.array([["a", "b"]], dtype=object)})["same"]
    assert same.tolist() == [[b"a", b"b"]]


def test_bytes_that_are_no_text_are_the_inputs_fault() -> None:
    with pytest.raises(ModelRunError, match="a text input is not valid UTF-8"):
        Session(tiny_models.text()).run({"text": np.array([[b"\xff", b"a"]], dtype=object)})


@pytest.mark.parametrize(
    "inputs",
    [
        tagged(77),
        {"x": np.zeros((1, 3), np.float32), "tag": np.zeros((1, 1), np.float32)},
        {"x": np.zeros((1, 2), np.float64), "tag": np.zeros((1, 1), np.float32)},
        {"x": np.zeros((1, 2), np.float32)},
        {**tagged(1), "more": np.zeros(1)},
    ],
)
def test_a_run_that_fails_says_why_in_one_line(inputs: dict[str, np.ndarray]) -> None:
    session = Session(tiny_models.picky(3))
    with pytest.raises(ModelRunError) as caught:
        session.run(inputs)
    assert 0 < len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(session.run(tagged(2))["who"], [[2]])


@pytest.mark.parametrize("content", [b"", b"nonsense", tiny_models.affine()[:-20]])
def test_what_is_no_model_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(ModelLoadError) as caught:
        Session(content)
    assert str(caught.value).startswith("ONNX Runtime ")
    assert " cannot load it: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_in_another_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    monkeypatch.chdir(tmp_path)  # even where such a file lies at hand
    with pytest.raises(ModelLoadError):
        Session(tiny_models.elsewhere())


def test_a_tensor_that_has_no_datatype_of_the_protocol_is_refused() -> None:
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "tiny", [tiny_models.value("x", TensorProto.FLOAT, 2)], [sequence])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelLoadError, match="tensor 'y' has type seq"):
        Session(made.SerializeToString())


TELEMETRY = """
import os, sys
from models.session import onnxruntime
assert "onnxruntime" not in sys.modules, "imported too early"
onnxruntime()
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_unless_somebody_says_otherwise(given: str | None, found: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    if given is not None:
        environ["ORT_DISABLE_TELEMETRY"] = given
    ran = subprocess.run(
        [sys.executable, "-c", TELEMETRY], env=environ, check=True, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == found
