"""What the pass does to trained models: what goes is gone, and accuracy comes back."""

import dataclasses

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress.channels import ChannelGraph
from models.compress.cost import multiply_adds, weight_bytes
from models.compress.errors import Inapplicable
from models.compress.graph import weights
from models.compress.passes.channels import Channels, chosen, norm, taylor
from models.session import Session
from tests.support.compress import accuracy, bench, digits_cnn, digits_mlp, digits_tokens


@pytest.mark.parametrize(
    ("make", "step", "loss"),
    [
        (digits_cnn, Channels(keep=0.5, multiple=8, epochs=20), 0.02),
        (digits_mlp, Channels(keep=0.5, multiple=8, epochs=15), 0.02),
        (digits_tokens, Channels(keep=0.5, multiple=8, epochs=5), 0.04),
    ],
)
def test_half_the_work_goes_and_accuracy_comes_back(make, step, loss, tmp_path):
    original, dataset = make()
    model = original.model()

    narrow = step.apply(model, bench(original, dataset, tmp_path))

    assert multiply_adds(narrow) <= 0.5 * multiply_adds(model)
    assert weight_bytes(narrow) < 0.75 * weight_bytes(model)
    assert accuracy(narrow, dataset) >= accuracy(model, dataset) - loss
    session = Session(narrow.SerializeToString())
    assert session.inputs == original.session.inputs
    assert session.outputs == original.session.outputs
    assert model == original.model()


def test_of_attention_whole_heads_go_and_of_the_rest_neurons(tmp_path):
    original, dataset = digits_tokens()

    narrow = Channels(keep=0.5, epochs=0).apply(original.model(), bench(original, dataset, tmp_path))

    shapes = {name: array.shape for name, array in weights(narrow).items()}
    heads = shapes["attention.query.bias"][0]
    assert heads % 8 == 0
    assert heads < 32
    assert shapes["attention.key.bias"] == shapes["attention.value.bias"] == (heads,)
    assert shapes["feed.0.bias"][0] in (48, 64, 80)


def test_training_recovers_what_cutting_lost(tmp_path):
    original, dataset = digits_cnn()
    place = bench(original, dataset, tmp_path)
    step = Channels(keep=0.3, multiple=8, epochs=15)

    cut = dataclasses.replace(step, epochs=0).apply(original.model(), place)
    recovered = step.apply(original.model(), place)

    assert multiply_adds(cut) == multiply_adds(recovered)
    assert accuracy(recovered, dataset) > accuracy(cut, dataset) + 0.2


def test_equal_steps_give_equal_models(tmp_path):
    original, dataset = digits_mlp()
    step = Channels(epochs=1)

    first = step.apply(original.model(), bench(original, dataset, tmp_path / "first"))
    second = step.apply(original.model(), bench(original, dataset, tmp_path / "second"))

    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_what_a_channel_is_worth_by_gradients_is_better_than_by_size(tmp_path):
    original, dataset = digits_tokens()
    place = bench(original, dataset, tmp_path)

    by = {name: Channels(by=name, epochs=0).apply(original.model(), place) for name in ("taylor", "norm")}

    assert accuracy(by["taylor"], dataset) > accuracy(by["norm"], dataset) + 0.1


def test_channels_nobody_reads_are_worth_nothing(tmp_path):
    original, dataset = digits_mlp()
    model = original.model()
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "0.2.weight")
    array = numpy_helper.to_array(weight).copy()
    array[:, 5] = 0.0
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    graph = ChannelGraph(model)

    gradients, sizes = taylor(model, graph, bench(original, dataset, tmp_path)), norm(graph)

    assert gradients["0.0.weight:0"][5] < 1e-12
    assert gradients["0.0.weight:0"].argmin() == 5 or np.sort(gradients["0.0.weight:0"])[0] < 1e-12
    assert sizes["0.0.weight:0"].argmin() == 5


def test_cheap_channels_stay_and_dear_ones_of_equal_worth_go():
    graph = ChannelGraph(digits_mlp()[0].model())
    equal = {group.name: np.ones(group.size) for group in graph.groups}

    kept = chosen(graph, equal, 0.8, multiple=8)

    # A neuron of the first layer costs 64 + 128, one of the second 128 + 10.
    assert len(kept["0.0.weight:0"]) < len(kept["0.2.weight:0"]) == 128


def test_no_layer_is_cut_much_further_than_an_equal_cut_of_all():
    graph = ChannelGraph(digits_mlp()[0].model())
    worth = {group.name: np.full(group.size, 1e-9 if group.name == "0.0.weight:0" else 1.0) for group in graph.groups}

    kept = chosen(graph, worth, 0.25, multiple=8)

    assert len(kept["0.0.weight:0"]) == 32


def test_half_comes_first_and_the_label_tells(tmp_path):
    original, dataset = digits_cnn()

    steps = Channels.choices(original.model(), bench(original, dataset, tmp_path))

    assert [step.label for step in steps] == ["channels-50", "channels-70", "channels-30"]


def test_more_than_there_is_cannot_be_taken_out():
    graph = ChannelGraph(digits_cnn()[0].model())

    with pytest.raises(Inapplicable, match=r"no less than 0\.[2-9]% .* 0\.1% were asked for"):
        chosen(graph, norm(graph), 0.001, multiple=8)


def test_a_model_of_one_layer_has_nothing_to_take_out(tmp_path):
    original, dataset = digits_mlp()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["pixels", "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 10])],
        [numpy_helper.from_array(np.ones((64, 10), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    place = bench(original, dataset, tmp_path)

    with pytest.raises(Inapplicable):
        Channels().apply(model, place)
    with pytest.raises(Inapplicable):
        Channels.choices(model, place)
