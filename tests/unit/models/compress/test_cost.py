import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress.cost import FREE_LENGTH, multiply_adds, shapes, weight_bytes
from models.compress.errors import Inapplicable


def network(nodes, constants, shape):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_convolution_costs_its_window_at_every_place_of_every_output_channel():
    conv = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    model = network([conv], {"w": (8, 3, 3, 3)}, ["rows", 3, 10, 10])

    assert multiply_adds(model) == 8 * 5 * 5 * 3 * 3 * 3
    assert multiply_adds(model, rows=4) == 4 * multiply_adds(model)


def test_groups_cost_their_own_inputs_only():
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=6)
    model = network([conv], {"w": (6, 1, 3, 3)}, ["rows", 6, 5, 5])

    assert multiply_adds(model) == 6 * 3 * 3 * 9


@pytest.mark.parametrize(("transposed", "weight"), [(0, (4, 7)), (1, (7, 4))])
def test_a_matrix_product_costs_its_three_lengths(transposed, weight):
    model = network([helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)], {"w": weight}, ["rows", 4])

    assert multiply_adds(model) == 4 * 7


def test_products_of_activations_count_and_other_work_does_not():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"]),
    ]

    assert multiply_adds(network(nodes, {}, ["rows", 5, 3])) == 5 * 5 * 3


def test_an_einsum_costs_every_letter():
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,ijk->bjk")

    assert multiply_adds(network([node], {"w": (4, 5, 6)}, ["rows", 4])) == 4 * 5 * 6


def test_a_recurrence_costs_both_of_its_weights_at_every_step():
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["y"], hidden_size=5),
    ]
    model = network(nodes, {"w": (1, 20, 3), "r": (1, 20, 5)}, ["rows", 7, 3])

    assert multiply_adds(model) == 7 * (20 * 3 + 20 * 5)


def test_shapes_are_seen_where_they_are_computed():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["rows"]),
        helper.make_node("Concat", ["rows", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    model = network(nodes, {}, ["rows", 2, 3])
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([0]), "first"), numpy_helper.from_array(np.array([6]), "rest")]
    )

    assert shapes(model, rows=3)["y"] == (3, 6)
    assert shapes(model)["target"] == (2,)


def test_free_lengths_other_than_the_batch_count_as_one_number():
    model = network([helper.make_node("Relu", ["x"], ["y"])], {}, ["rows", "length"])

    assert shapes(model, rows=2)["y"] == (2, FREE_LENGTH)


def test_weights_weigh_what_is_stored():
    model = network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": (4, 7)}, ["rows", 4])

    assert weight_bytes(model) == 4 * 4 * 7


def test_a_graph_that_does_not_run_is_told():
    model = network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": (3, 7)}, ["rows", 4])

    with pytest.raises(Inapplicable, match="zeros"):
        multiply_adds(model)
