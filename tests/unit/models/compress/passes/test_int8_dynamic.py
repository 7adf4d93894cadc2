import numpy as np
import pytest

from models.compress import quantizer
from models.compress.errors import Inapplicable
from models.compress.passes.int8_dynamic import Int8Dynamic
from models.session import Session
from tests.support import compress


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_a_transformer_multiplies_in_8_bits_without_calibration(tmp_path):
    original, dataset = compress.digits_tokens()
    small = Int8Dynamic().apply(original.model(), compress.bench(original, dataset, tmp_path))
    assert operators(small).count("MatMulInteger") == 7
    # Products of two activations stay as they are.
    assert operators(small).count("MatMul") == 2
    assert len(small.SerializeToString()) < 0.45 * len(original.content)
    assert compress.accuracy(small, dataset) >= compress.accuracy(original.model(), dataset) - 0.02
    session = Session(small.SerializeToString())
    assert (session.inputs, session.outputs) == (original.session.inputs, original.session.outputs)


def test_gemms_are_quantized_too_and_the_original_is_left_alone(tmp_path, capsys, caplog):
    original, dataset = compress.digits_mlp()
    caplog.clear()  # The exporter talks when it makes the original.
    capsys.readouterr()
    bench, model = compress.bench(original, dataset, tmp_path), original.model()
    small = Int8Dynamic().apply(model, bench)
    assert operators(small).count("MatMulInteger") == 3
    assert "Gemm" not in operators(small)
    assert len(small.SerializeToString()) < 0.3 * len(original.content)
    assert compress.accuracy(small, dataset) >= compress.accuracy(model, dataset) - 0.01
    assert model.SerializeToString() == original.content
    assert Int8Dynamic().apply(model, bench) == small
    assert capsys.readouterr().out == ""
    assert caplog.records == []


def test_one_scale_a_matrix_is_smaller(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    each, whole = (Int8Dynamic(per_channel=way).apply(original.model(), bench) for way in (True, False))
    assert whole.ByteSize() < each.ByteSize()


def test_seven_bits_are_said_and_kept(tmp_path, monkeypatch):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    for saturates, limit in ((True, 64), (False, 127)):
        monkeypatch.setattr(quantizer, "saturates", lambda answer=saturates: answer)
        step = Int8Dynamic.choices(original.model(), bench)[0]
        assert step.facts()["reduce_range"] is saturates
        tensors = [t for t in step.apply(original.model(), bench).graph.initializer if t.data_type == 3]
        values = [np.frombuffer(tensor.raw_data, np.int8).astype(int) for tensor in tensors if tensor.raw_data]
        assert limit / 2 < max(np.abs(array).max() for array in values) <= limit


def test_a_convolutional_net_is_left_to_others(tmp_path):
    original, dataset = compress.digits_cnn()
    with pytest.raises(Inapplicable, match="convolutions"):
        Int8Dynamic.choices(original.model(), compress.bench(original, dataset, tmp_path))
