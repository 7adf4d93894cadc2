import io
import logging
import tempfile
import threading

import numpy as np
import onnx
import pytest
from onnx import helper

from models.compress import graph as graphs
from models.compress import quantizer
from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.session import Session
from tests.support import compress


class FakePath:
    """Stands for /proc/cpuinfo."""

    def __init__(self, text):
        self.text = text

    def __call__(self, _place):
        return self

    def open(self, **_how):
        if self.text is None:
            raise OSError
        return io.StringIO(self.text)


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("x86_64", "model name : x\nflags : sse4_2 avx2\n", True),
        ("x86_64", "model name : x\nflags : avx2 avx512_vnni\n", False),
        ("AMD64", "flags : avx2 avx_vnni\n", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_seven_bits_are_for_x86_without_vnni(monkeypatch, machine, text, expected):
    monkeypatch.setattr(quantizer.platform, "machine", lambda: machine)
    monkeypatch.setattr(quantizer, "Path", FakePath(text))
    assert quantizer.saturates() is expected


def test_what_tools_say_stays_inside_and_what_others_say_gets_out(capsys, caplog):
    before = list(logging.getLogger().handlers)
    with quantizer.silence():
        print("progress")
        logging.getLogger().warning("advice")
        logging.getLogger("onnxruntime.quantization").error("trouble")
        other = threading.Thread(target=logging.getLogger().warning, args=("of another thread",))
        other.start()
        other.join()
    logging.getLogger().warning("afterwards")
    assert [record.getMessage() for record in caplog.records] == ["of another thread", "afterwards"]
    assert capsys.readouterr().out == ""
    assert logging.getLogger().handlers == before


def test_a_prepared_graph_computes_the_same_and_is_ready_to_quantize():
    original, dataset = compress.digits_cnn()
    model = original.model()
    for node in model.graph.node:
        node.name = "same"
    model.opset_import[0].version = 18
    subject = quantizer.prepared(model)
    operators = [node.op_type for node in subject.graph.node]
    assert "BatchNormalization" not in operators
    assert "Constant" not in operators
    assert len({node.name for node in subject.graph.node}) == len(operators)
    found = scores_of(Session(subject.SerializeToString()), original.output.name, dataset.test)
    np.testing.assert_allclose(found, original.scores(dataset.test), atol=1e-3)


def test_gemms_become_products_and_sums_that_give_the_same():
    original, dataset = compress.digits_mlp()
    model = quantizer.matmuls(original.model())
    assert [node.op_type for node in model.graph.node].count("MatMul") == 3
    assert len(quantizer.matrix_products(model)) == 3
    found = scores_of(Session(model.SerializeToString()), original.output.name, dataset.test)
    np.testing.assert_allclose(found, original.scores(dataset.test), atol=1e-6)
    assert original.model().SerializeToString() == original.content


def test_a_model_with_other_weights_is_refused():
    original, _ = compress.digits_mlp()
    model = original.model()
    bytes_of = {name: array.astype(np.int8) for name, array in graphs.weights(model).items()}
    with pytest.raises(Inapplicable, match="not float32"):
        quantizer.in_float(graphs.with_weights(model, bytes_of))
    nothing = helper.make_model(helper.make_graph([], "empty", [], []))
    with pytest.raises(Inapplicable, match="nothing left"):
        quantizer.in_float(nothing)


def test_a_tool_that_fails_gives_a_reason_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(folder):
        (folder / "left.onnx").write_bytes(b"x")
        raise AssertionError("cannot\nbe")

    with pytest.raises(Inapplicable, match="cannot$"):
        quantizer.worked(fail)
    assert list(tmp_path.iterdir()) == []


def test_a_result_carries_no_notes_and_no_unused_domains():
    original, _ = compress.digits_mlp()
    model = original.model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.helper.set_model_props(model, {"onnx.infer": "somewhere"})
    done = quantizer.finished(model)
    assert [entry.domain for entry in done.opset_import] == [""]
    assert not done.metadata_props
    assert not done.graph.value_info
