import numpy as np
import onnx
import pytest
from onnx import helper

from models.compress import graph as graphs
from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.compress.passes import simplify
from models.compress.passes.simplify import Simplify
from models.session import Session
from tests.support import compress


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_normalisation_and_scaling_end_up_in_the_weights(tmp_path):
    original, dataset = compress.digits_cnn()
    model = original.model()
    assert operators(model).count("BatchNormalization") == 4

    simple = Simplify().apply(model, compress.bench(original, dataset, tmp_path))

    # The shift stays: the first convolution pads with zeros.
    assert sorted(operators(simple)) == sorted(["Add"] * 2 + ["Conv"] * 4 + ["Relu"] * 4 + ["ReduceMean", "Gemm"])
    expected = original.scores(dataset.test)
    found = scores_of(Session(simple.SerializeToString()), "scores", dataset.test)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert len(simple.SerializeToString()) < 0.7 * len(original.content)
    assert model.SerializeToString() == original.model().SerializeToString()


def test_notes_of_the_exporter_are_no_part_of_a_variant(tmp_path):
    original, dataset = compress.digits_tokens()
    assert b"support/compress.py" in original.content
    simple = Simplify().apply(original.model(), compress.bench(original, dataset, tmp_path))
    assert b"support/compress.py" not in simple.SerializeToString()


def test_a_simple_graph_is_not_done_again(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    (step,) = Simplify.choices(original.model(), bench)
    simple = step.apply(original.model(), bench)
    with pytest.raises(Inapplicable, match="as simple as"):
        step.apply(simple, bench)


def _wrong(model):
    """Smaller, but it computes something else."""
    copy = graphs.without_dead_code(model)
    relu = next(node for node in copy.graph.node if node.op_type == "Relu")
    for node in copy.graph.node:
        if relu.output[0] in node.input:
            node.input[list(node.input).index(relu.output[0])] = relu.input[0]
    return graphs.without_dead_code(copy)


def _renamed(model):
    """Smaller, but its input has another name."""
    copy = graphs.stripped(model)
    copy.graph.input[0].name = "other"
    copy.graph.node.insert(0, helper.make_node("Identity", ["other"], ["pixels"]))
    del copy.graph.value_info[:]
    return _wrong(copy)


def _failing(model):
    raise onnx.checker.ValidationError("cannot read this")


@pytest.mark.parametrize("rewrite", [_wrong, _renamed, _failing])
def test_a_tool_that_changes_the_model_or_fails_is_not_followed(tmp_path, monkeypatch, rewrite):
    monkeypatch.setattr(simplify, "_slim", rewrite)
    original, dataset = compress.digits_mlp()
    simple = Simplify().apply(original.model(), compress.bench(original, dataset, tmp_path))
    found = scores_of(Session(simple.SerializeToString()), "scores", dataset.test)
    np.testing.assert_allclose(found, original.scores(dataset.test), atol=1e-5)


def test_a_defect_of_a_tool_is_not_hidden(tmp_path, monkeypatch):
    """It ends this recipe and no other: whoever carries out passes lists it, and where its traceback lies."""

    def defect(model):
        raise KeyError("a name that the tool lost")

    monkeypatch.setattr(simplify, "_slim", defect)
    original, dataset = compress.digits_mlp()
    with pytest.raises(KeyError, match="lost"):
        Simplify().apply(original.model(), compress.bench(original, dataset, tmp_path))
