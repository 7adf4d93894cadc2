import numpy as np
import pytest

from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.compress.passes import half
from models.compress.passes.half import Half
from models.session import Session
from tests.support import compress

MADE = {"cnn": compress.digits_cnn, "mlp": compress.digits_mlp, "tokens": compress.digits_tokens}


@pytest.mark.parametrize("kind", MADE)
def test_stored_in_16_bits_a_model_is_half_as_large_and_computes_in_float32(tmp_path, kind):
    original, dataset = MADE[kind]()
    model = original.model()
    small = Half().apply(model, compress.bench(original, dataset, tmp_path))
    assert len(small.SerializeToString()) < 0.52 * len(original.content)
    scores = scores_of(Session(small.SerializeToString()), original.output.name, dataset.test)
    expected = original.scores(dataset.test)
    np.testing.assert_allclose(scores, expected, atol=4e-3 * np.abs(expected).max())
    # Weights are the only thing in 16 bits: each is cast before anything is computed.
    casts = [node for node in small.graph.node if node.op_type == "Cast"]
    assert sum(tensor.data_type == 10 for tensor in small.graph.initializer) == len(casts)
    assert list(small.graph.node[: len(casts)]) == casts
    assert model.SerializeToString() == original.content


@pytest.mark.parametrize("kind", MADE)
def test_computed_in_16_bits_inputs_and_outputs_keep_their_types(tmp_path, kind, caplog):
    original, dataset = MADE[kind]()
    caplog.clear()  # The exporter talks when it makes the original.
    small = Half(computed=True).apply(original.model(), compress.bench(original, dataset, tmp_path))
    session = Session(small.SerializeToString())
    assert (session.inputs, session.outputs) == (original.session.inputs, original.session.outputs)
    assert len(small.SerializeToString()) < 0.52 * len(original.content)
    assert compress.accuracy(small, dataset) >= compress.accuracy(original.model(), dataset) - 0.01
    assert caplog.records == []


@pytest.mark.parametrize(("latency", "labels"), [(0.8, ["fp16", "half"]), (0.99, ["half"]), (1.3, ["half"])])
def test_computing_in_16_bits_is_proposed_where_it_was_measured_to_be_faster(tmp_path, monkeypatch, latency, labels):
    original, dataset = compress.digits_mlp()

    ratios = iter([(1.0, 1.0), (latency, latency)])  # the model's first
    monkeypatch.setattr(half, "latency_of", lambda _session, _bench: next(ratios))
    choices = Half.choices(original.model(), compress.bench(original, dataset, tmp_path))
    assert [step.label for step in choices] == labels


def test_what_is_in_16_bits_is_not_done_again(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    with pytest.raises(Inapplicable, match="not float32"):
        Half.choices(Half().apply(original.model(), bench), bench)
