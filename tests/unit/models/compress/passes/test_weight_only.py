import numpy as np
import pytest

from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.compress.passes import weight_only
from models.compress.passes.weight_only import WeightOnly
from models.session import Session
from tests.support import compress

MADE = {"cnn": compress.digits_cnn, "mlp": compress.digits_mlp, "tokens": compress.digits_tokens}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize(("bits", "share", "loss"), [(8, 0.33, 0.01), (4, 0.24, 0.03)])
def test_any_model_is_stored_smaller_and_computes_almost_the_same(tmp_path, kind, bits, share, loss):
    original, dataset = MADE[kind]()
    model = original.model()
    step = WeightOnly(bits=bits, block=64 if bits == 8 else 32)
    small = step.apply(model, compress.bench(original, dataset, tmp_path))
    assert len(small.SerializeToString()) < share * len(original.content)
    assert compress.accuracy(small, dataset) >= compress.accuracy(model, dataset) - loss
    session = Session(small.SerializeToString())
    assert (session.inputs, session.outputs) == (original.session.inputs, original.session.outputs)
    assert model.SerializeToString() == original.content


def test_more_bits_are_nearer_to_the_original(tmp_path):
    original, dataset = compress.digits_tokens()
    bench = compress.bench(original, dataset, tmp_path)
    errors = {}
    for bits in (8, 4):
        small = WeightOnly(bits=bits, block=32).apply(original.model(), bench)
        scores = scores_of(Session(small.SerializeToString()), "scores", dataset.test)
        errors[bits] = np.abs(scores - original.scores(dataset.test)).mean()
    assert 0 < errors[8] < 0.2 * errors[4]


@pytest.mark.parametrize("bits", [4, 8])
def test_matrices_can_be_unpacked_at_each_run(tmp_path, bits, capsys, caplog):
    original, dataset = compress.digits_mlp()
    caplog.clear()  # The exporter talks when it makes the original.
    capsys.readouterr()
    bench = compress.bench(original, dataset, tmp_path)
    small = WeightOnly(bits=bits, block=32, each_run=True).apply(original.model(), bench)
    assert [node.op_type for node in small.graph.node].count("MatMulNBits") == 3
    assert len(small.SerializeToString()) < (0.25 if bits == 4 else 0.36) * len(original.content)
    assert compress.accuracy(small, dataset) >= compress.accuracy(original.model(), dataset) - 0.02
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


def test_unpacking_at_each_run_is_proposed_for_large_matrices_only(tmp_path, monkeypatch):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    assert [step.label for step in WeightOnly.choices(original.model(), bench)] == ["w8", "w4"]
    monkeypatch.setattr(weight_only, "LEAST_MATRIX", 128 * 128)
    assert [step.label for step in WeightOnly.choices(original.model(), bench)] == ["w8", "w4", "w4run", "w8run"]


def test_a_model_without_matrices_is_not_unpacked_at_each_run(tmp_path):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    stored = WeightOnly().apply(original.model(), bench)
    for step in (WeightOnly(), WeightOnly(each_run=True)):
        with pytest.raises(Inapplicable, match="not float32"):
            step.apply(stored, bench)
