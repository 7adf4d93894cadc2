import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.compress import graph as graphs
from models.compress import storage
from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.compress.passes.sparsify import Sparsify, kept_in, without_zeros
from models.session import Session
from tests.support import compress


def test_half_of_the_weights_go_with_their_bytes_and_little_accuracy(tmp_path):
    original, dataset = compress.digits_mlp()
    model = original.model()
    sparse = Sparsify(0.5, epochs=0).apply(model, compress.bench(original, dataset, tmp_path))
    # Of four bytes a weight five are left for every second one, and what is not a weight.
    assert len(sparse.SerializeToString()) < 0.7 * len(original.content)
    assert compress.accuracy(sparse, dataset) > compress.accuracy(model, dataset) - 0.02
    assert model.SerializeToString() == original.model().SerializeToString()


def test_recovery_returns_accuracy_and_keeps_the_zeros(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    raw, learned = (Sparsify(0.85, epochs=epochs).apply(original.model(), bench) for epochs in (0, 30))
    assert compress.accuracy(learned, dataset) > compress.accuracy(raw, dataset) + 0.02
    assert len(learned.SerializeToString()) < 1.02 * len(raw.SerializeToString()) < 0.35 * len(original.content)


def test_layers_bear_different_shares_unless_told_otherwise():
    random = np.random.default_rng(0)
    flat = {"first": random.uniform(0.9, 1.1, (40, 40)), "second": random.standard_normal((40, 40)) ** 3}
    weights = {name: array.astype(np.float32) for name, array in flat.items()}
    for scope in ("model", "layer"):
        kept = kept_in(weights, 0.75, scope)
        assert sum(mask.sum() for mask in kept.values()) == 800
    assert {name: mask.sum() for name, mask in kept.items()} == {"first": 400, "second": 400}
    relative = kept_in(weights, 0.75, "model")
    # Where few elements hold nearly everything, the others can go; and a layer's largest go last.
    assert relative["first"].sum() > 500 > relative["second"].sum() > 100
    second = np.abs(weights["second"])
    assert second[relative["second"]].min() >= second[~relative["second"]].max()


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 600), st.randoms(use_true_random=False))
def test_any_pattern_of_zeros_survives(gaps, tail, random):
    places = np.cumsum(gaps, dtype=int) + np.arange(len(gaps))
    array = np.zeros((1, (places[-1] + 1 if gaps else 1) + tail), np.float32)
    array[0, places] = [random.uniform(-1, 1) or 1.0 for _ in gaps]
    packed = without_zeros("weight", array)
    graph = helper.make_graph(
        packed.nodes,
        "packed",
        [],
        [helper.make_tensor_value_info("weight", TensorProto.FLOAT, array.shape)],
        [numpy_helper.from_array(tensor, name) for name, tensor in packed.tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    np.testing.assert_array_equal(Session(model.SerializeToString()).run({})["weight"], array)


def test_packing_itself_changes_no_answer():
    original, dataset = compress.digits_cnn()
    weights = storage.weights_to_pack(original.model())
    packed = graphs.checked(storage.with_packed(original.model(), weights, without_zeros))
    found = scores_of(Session(packed.SerializeToString()), "scores", dataset.test)
    np.testing.assert_array_equal(found, original.scores(dataset.test))


def test_choices_promise_recovery_and_need_weights(tmp_path):
    original, dataset = compress.digits_tokens()
    bench = compress.bench(original, dataset, tmp_path)
    steps = Sparsify.choices(original.model(), bench)
    assert [step.label for step in steps] == ["sparse-80", "sparse-90", "sparse-50.raw"]
    assert Sparsify(0.5, "layer", 0).label == "sparse-50.layer.raw"
    bare = original.model()
    del bare.graph.initializer[:]
    with pytest.raises(Inapplicable, match="256 elements"):
        Sparsify.choices(bare, bench)
