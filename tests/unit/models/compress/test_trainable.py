import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress.errors import Inapplicable
from models.compress.graph import weights
from models.compress.original import log_probabilities
from models.compress.trainable import TrainableGraph
from models.session import Session
from tests.support.compress import digits_cnn, digits_mlp, digits_tokens, torch

ROWS = 32


def first_rows(dataset):
    rows = dataset.train.take(slice(0, ROWS))
    return rows, {name: torch.tensor(array) for name, array in rows.inputs.items()}


def network(nodes, constants=(), shape=("rows", 4), opset=18):
    """A graph from `x` to `y` of given nodes and constants."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("make", [digits_cnn, digits_mlp, digits_tokens])
def test_it_answers_as_the_original_does(make):
    original, dataset = make()
    rows, tensors = first_rows(dataset)
    module = TrainableGraph(original.model())

    with torch.no_grad():
        np.testing.assert_allclose(module.scores(tensors).numpy(), original.scores(rows), atol=1e-4)
        probabilities = module(tensors).softmax(dim=1).numpy()

    np.testing.assert_allclose(probabilities, np.exp(log_probabilities(original.scores(rows))), atol=1e-4)


@pytest.mark.parametrize("make", [digits_cnn, digits_mlp, digits_tokens])
def test_what_is_written_answers_as_the_module_does_before_and_after_a_step(make):
    original, dataset = make()
    rows, tensors = first_rows(dataset)
    module = TrainableGraph(original.model())
    unchanged = weights(module.written())
    assert all(np.array_equal(array, unchanged[name]) for name, array in weights(original.model()).items())

    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    loss = torch.nn.functional.cross_entropy(module(tensors), torch.tensor(rows.labels))
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.weights)
    optimizer.step()

    written = module.written()
    (answers,) = Session(written.SerializeToString()).run(rows.inputs).values()
    with torch.no_grad():
        np.testing.assert_allclose(module.scores(tensors).numpy(), answers, atol=1e-4)
    assert np.abs(answers - original.scores(rows)).max() > 1e-3
    assert [node.output for node in written.graph.node] == [node.output for node in original.model().graph.node]


def test_training_wants_logits_where_the_graph_ends_in_a_softmax():
    module = TrainableGraph(digits_mlp()[0].model())

    assert module.logits != module.output
    assert TrainableGraph(digits_cnn()[0].model()).logits == "scores"


def test_only_what_training_taught_is_trained():
    mask = np.full((4,), np.finfo(np.float32).min, np.float32)
    model = network(
        [
            helper.make_node("Sub", ["x", "mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "half"], ["halved"]),
            helper.make_node("Add", ["halved", "mask"], ["masked"]),
            helper.make_node("Transpose", ["weight"], ["turned"]),
            helper.make_node("Gemm", ["masked", "turned", "bias"], ["y"]),
        ],
        {
            "mean": np.ones(4, np.float32),
            "half": np.array(0.5, np.float32),
            "mask": mask,
            "weight": np.ones((3, 4), np.float32),
            "bias": np.ones(3, np.float32),
        },
    )

    assert TrainableGraph(model).names == ("bias", "weight")


def test_weights_in_constant_nodes_are_trained_and_written():
    value = numpy_helper.from_array(np.ones((4, 3), np.float32))
    model = network(
        [helper.make_node("Constant", [], ["weight"], value=value), helper.make_node("MatMul", ["x", "weight"], ["y"])]
    )
    module = TrainableGraph(model)
    with torch.no_grad():
        module.weight("weight").mul_(3.0)

    (answer,) = Session(module.written().SerializeToString()).run({"x": np.ones((1, 4), np.float32)}).values()

    assert answer.tolist() == [[12.0, 12.0, 12.0]]


def test_settling_takes_the_statistics_of_what_each_layer_sees():
    original, dataset = digits_cnn()
    module = TrainableGraph(original.model())
    _, tensors = first_rows(dataset)
    with torch.no_grad():
        module.weight("stem.0.weight").mul_(5.0)

    module.settle(tensors)

    # The first convolution's outputs are five times as large, and normalised to the same again.
    before, after = weights(original.model()), weights(module.written())
    ratio = after["stem.1.running_var"] / before["stem.1.running_var"]
    assert 20 < np.median(ratio) < 30
    second = after["first.1.running_var"] / before["first.1.running_var"]
    assert 0.7 < np.median(second) < 1.4
    rows = dataset.test
    (answers,) = Session(module.written().SerializeToString()).run(rows.inputs).values()
    assert (answers.argmax(axis=1) == rows.labels).mean() > 0.9


def test_an_operator_nobody_trains_through_is_named():
    model = network([helper.make_node("Hardmax", ["x"], ["y"])])

    with pytest.raises(Inapplicable, match="Hardmax"):
        TrainableGraph(model)


def test_an_operator_of_another_domain_is_named():
    model = network([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    with pytest.raises(Inapplicable, match=r"com\.microsoft\.Gelu"):
        TrainableGraph(model)


def test_a_graph_without_weights_is_told():
    with pytest.raises(Inapplicable, match="no float32 weights"):
        TrainableGraph(network([helper.make_node("Relu", ["x"], ["y"])]))


def test_a_weight_that_is_not_trained_is_not_there():
    module = TrainableGraph(digits_cnn()[0].model())

    with pytest.raises(KeyError):
        module.weight("stem.1.running_var")


def test_the_model_given_stays_as_it_was():
    model = digits_cnn()[0].model()
    before = onnx.ModelProto()
    before.CopyFrom(model)
    module = TrainableGraph(model)
    with torch.no_grad():
        module.weights[0].zero_()
    module.written()

    assert model == before
