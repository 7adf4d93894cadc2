import numpy as np
import pytest

from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.compress.passes import fuse
from models.compress.passes.fuse import Fuse
from models.compress.passes.sparsify import Sparsify
from models.session import Session
from tests.support import compress


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_convolutions_take_their_normalisation_and_activation(tmp_path):
    original, dataset = compress.digits_cnn()
    model = original.model()
    (step,) = Fuse.choices(model, compress.bench(original, dataset, tmp_path))
    fused = step.apply(model, compress.bench(original, dataset, tmp_path))
    assert operators(fused).count("FusedConv") == 3
    assert len(fused.graph.node) < len(model.graph.node)
    # A layout of blocks would tie the file to processors with vectors as wide as this one's.
    assert "com.microsoft.nchwc" not in {node.domain for node in fused.graph.node}
    expected = original.scores(dataset.test)
    found = scores_of(Session(fused.SerializeToString()), "scores", dataset.test)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert step.facts() == {"pass": "fuse", "tool": "loader", "level": "extended"}
    with pytest.raises(Inapplicable, match="fused already"):
        Fuse.choices(fused, compress.bench(original, dataset, tmp_path))


def test_transformers_have_a_tool_of_their_own(tmp_path):
    original, dataset = compress.digits_tokens()
    bench = compress.bench(original, dataset, tmp_path)
    steps = Fuse.choices(original.model(), bench)
    assert [step.label for step in steps] == ["fused.transformer", "fused"]
    fused = steps[0].apply(original.model(), bench)
    assert {"SkipLayerNormalization", "BiasGelu"} <= set(operators(fused))
    assert compress.accuracy(fused, dataset) == pytest.approx(compress.accuracy(original.model(), dataset), abs=0.006)


def test_packed_weights_are_not_unpacked(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    packed = Sparsify(0.8, epochs=0).apply(original.model(), bench)
    with pytest.raises(Inapplicable, match="packed"):
        Fuse().apply(packed, bench)


def test_other_answers_are_not_accepted(tmp_path, monkeypatch):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)

    def wrong(source, level):
        model = original.model()
        model.graph.node[2].input[0] = model.graph.node[1].input[0]
        del model.graph.node[1]
        return model

    monkeypatch.setattr(fuse, "_as_loaded", wrong)
    with pytest.raises(Inapplicable, match="answers change"):
        Fuse().apply(original.model(), bench)
