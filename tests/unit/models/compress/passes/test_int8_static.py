import logging
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from models.compress import quantizer
from models.compress.errors import Inapplicable
from models.compress.passes.int8_static import Int8Static
from models.session import Session
from tests.support import compress


def packed_layers(model):
    """Layers whose weights are kept in 8 bits, by operator."""
    made = {node.output[0]: node for node in model.graph.node}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            source = made.get(node.input[1])
            if source is not None and source.op_type == "DequantizeLinear" and kinds.get(source.input[0]) == 3:
                found.append(node.op_type)
    return found


def quiet_so_far(caplog, capsys):
    """The exporter talks when it makes the original."""
    caplog.clear()
    capsys.readouterr()


def test_a_convolutional_net_shrinks_and_answers_as_before(tmp_path, capsys, caplog, monkeypatch):
    original, dataset = compress.digits_cnn()
    quiet_so_far(caplog, capsys)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bench = compress.bench(original, dataset, tmp_path / "bench")
    model = original.model()

    small = Int8Static().apply(model, bench)

    assert packed_layers(small) == ["Conv"] * 4 + ["Gemm"]
    # Between convolutions nothing goes back to float32: Relu is part of the range, the sum is marked.
    operators = [node.op_type for node in small.graph.node]
    assert "Relu" not in operators
    assert len(small.SerializeToString()) < 0.35 * len(original.content)
    assert compress.accuracy(small, dataset) >= compress.accuracy(model, dataset) - 0.01
    session = Session(small.SerializeToString())
    assert (session.inputs, session.outputs) == (original.session.inputs, original.session.outputs)
    assert model.SerializeToString() == original.content
    assert Int8Static().apply(model, compress.bench(original, dataset, tmp_path)) == small
    assert capsys.readouterr().out == ""
    assert caplog.records == []
    assert list(tmp_path.iterdir()) == []


def test_pre_processing_stays_in_float(tmp_path):
    original, dataset = compress.digits_cnn()
    small = Int8Static().apply(original.model(), compress.bench(original, dataset, tmp_path))
    first = [node.op_type for node in small.graph.node if "image" in node.input]
    assert first == ["Sub"]


def test_a_transformer_keeps_attention_and_norms_in_float(tmp_path):
    original, dataset = compress.digits_tokens()
    small = Int8Static().apply(original.model(), compress.bench(original, dataset, tmp_path))
    made = {node.output[0]: node.op_type for node in small.graph.node}
    assert packed_layers(small) == ["MatMul"] * 6 + ["Gemm"]
    products = [node for node in small.graph.node if node.op_type == "MatMul"]
    assert sum("DequantizeLinear" not in [made.get(name) for name in node.input] for node in products) == 2
    for node in small.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert made.get(node.input[0]) != "DequantizeLinear"
    assert len(small.SerializeToString()) < 0.45 * len(original.content)
    assert compress.accuracy(small, dataset) >= compress.accuracy(original.model(), dataset) - 0.02


def test_the_layers_left_in_float_are_the_most_sensitive_ones(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    step = Int8Static(keep_float=0.3)
    (kept,) = step.kept(original.model(), bench)
    # The first layer reads pixels of 0 to 16, and everything else depends on it.
    assert kept.layer == "node_linear"
    careful, whole = (each.apply(original.model(), bench) for each in (step, replace(step, keep_float=0.0)))
    assert packed_layers(whole) == ["Gemm"] * 3
    assert packed_layers(careful) == ["Gemm"] * 2
    assert len(whole.SerializeToString()) < len(careful.SerializeToString()) < len(original.content)


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_other_calibrations_find_other_ranges(tmp_path, calibration):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    model = Int8Static(calibration=calibration).apply(original.model(), bench)
    assert model != Int8Static().apply(original.model(), bench)
    assert compress.accuracy(model, dataset) >= compress.accuracy(original.model(), dataset) - 0.01


def test_weights_of_seven_bits_are_within_64(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    greatest = {}
    for reduce_range in (True, False):
        model = Int8Static(reduce_range=reduce_range).apply(original.model(), bench)
        tensors = [tensor for tensor in model.graph.initializer if tensor.data_type == 3 and len(tensor.dims) == 2]
        values = [np.abs(np.frombuffer(tensor.raw_data, np.int8).astype(int)).max() for tensor in tensors]
        assert len(values) == 3
        greatest[reduce_range] = max(values)
    assert greatest[True] <= 64 < greatest[False] <= 127


def test_choices_follow_the_processor(tmp_path, monkeypatch):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    for saturates in (True, False):
        monkeypatch.setattr(quantizer, "saturates", lambda answer=saturates: answer)
        choices = Int8Static.choices(original.model(), bench)
        assert choices[0] == Int8Static(reduce_range=saturates)
        assert all(choice.facts()["reduce_range"] is saturates for choice in choices)
        assert len({choice.label for choice in choices}) == len(choices) == 5


def test_what_is_in_8_bits_is_not_done_again(tmp_path):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    small = Int8Static().apply(original.model(), bench)
    with pytest.raises(Inapplicable, match="not float32"):
        Int8Static.choices(small, bench)


@pytest.mark.parametrize("wrong", [{"calibration": "guess"}, {"keep_float": 1.0}, {"keep_float": -0.1}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Int8Static(**wrong)


def test_the_root_logger_is_as_it_was(tmp_path):
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters), root.level)
    original, dataset = compress.digits_mlp()
    Int8Static().apply(original.model(), compress.bench(original, dataset, tmp_path))
    assert (list(root.handlers), list(root.filters), root.level) == before
