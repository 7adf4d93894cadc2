import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress import graph
from models.compress.errors import Inapplicable
from models.session import Session

ROWS = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ("rows", 3))


def made(nodes, constants=None, *, outputs=("y",), version=17, shape=("rows", None)):
    """A model of these nodes on x, float32 [rows, 3]."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs]
    content = helper.make_graph(nodes, "made", [ROWS], values, initializers)
    return helper.make_model(content, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


def run(model, x):
    (y,) = Session(model.SerializeToString()).run({"x": x}).values()
    return y


def test_weights_are_found_wherever_they_are_kept():
    values = numpy_helper.from_array(np.array([5.0, 7.0], np.float32), "sparse")
    places = numpy_helper.from_array(np.array([0, 4], np.int64), "sparse_indices")
    model = made(
        [
            helper.make_node("Constant", [], ["ints"], value_ints=[1, 2]),
            helper.make_node("Constant", [], ["float"], value_float=0.5),
            helper.make_node("Constant", [], ["tensor"], value=numpy_helper.from_array(np.ones((2, 2), np.float32))),
            helper.make_node("Constant", [], ["text"], value_string="not a number"),
            helper.make_node("MatMul", ["x", "dense"], ["y"]),
        ],
        {"dense": np.eye(3, dtype=np.float32)},
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 3]))

    found = graph.weights(model)

    assert set(found) == {"ints", "float", "tensor", "dense", "sparse"}
    np.testing.assert_array_equal(found["ints"], [1, 2])
    assert found["float"].shape == ()
    np.testing.assert_array_equal(found["sparse"], [[5, 0, 0], [0, 7, 0]])


def test_replaced_weights_compute_and_the_given_model_stays():
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32))
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = made(nodes)
    before = model.SerializeToString()

    # Narrower than before, and not in C order.
    changed = graph.with_weights(model, {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T})

    np.testing.assert_array_equal(run(changed, np.eye(3, dtype=np.float32)), [[0, 3], [1, 4], [2, 5]])
    assert model.SerializeToString() == before


def test_producers_and_consumers_see_into_subgraphs():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["doubled"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    model = made(
        [
            helper.make_node("Add", ["x", "x"], ["doubled"]),
            helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
        ],
        {"yes": np.array(True)},
    )
    assert [node.op_type for node in graph.consumers(model)["x"]] == ["Add"]
    assert [node.op_type for node in graph.consumers(model)["doubled"]] == ["If"]
    assert graph.producers(model)["doubled"].op_type == "Add"
    assert [node.op_type for node in graph.without_dead_code(model).graph.node] == ["Add", "If"]


def test_dead_code_goes_and_inputs_stay():
    model = made(
        [
            helper.make_node("MatMul", ["x", "used"], ["y"]),
            helper.make_node("MatMul", ["x", "unused"], ["nobody"]),
            helper.make_node("Relu", ["nobody"], ["reads"]),
        ],
        {"used": np.eye(3, dtype=np.float32), "unused": np.eye(3, dtype=np.float32)},
    )
    alive = graph.without_dead_code(model)
    assert [node.output[0] for node in alive.graph.node] == ["y"]
    assert set(graph.weights(alive)) == {"used"}
    assert [value.name for value in alive.graph.input] == ["x"]


def test_opset_is_raised_with_the_same_result():
    # Before opset 13 the axes of Squeeze were an attribute.
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["wide"], axes=[1]),
        helper.make_node("Squeeze", ["wide"], ["y"], axes=[1]),
    ]
    model = made(nodes, version=11)
    raised = graph.raised(model, 17)
    assert (graph.opset(model), graph.opset(raised)) == (11, 17)
    assert graph.raised(raised, 13) is raised
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(raised, x), x)


def test_opset_that_nobody_stated_is_refused():
    model = made([helper.make_node("Relu", ["x"], ["y"])])
    del model.opset_import[:]
    with pytest.raises(Inapplicable, match="which version"):
        graph.opset(model)


def test_notes_of_tools_are_removed_and_nothing_else():
    model = made([helper.make_node("Relu", ["x"], ["y"], doc_string="/home/someone/net.py")])
    plain = made([helper.make_node("Relu", ["x"], ["y"])])
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone")
    model.metadata_props.add(key="author", value="someone")
    model.graph.doc_string = "of someone"
    assert b"someone" not in graph.stripped(model).SerializeToString()
    assert graph.stripped(model).SerializeToString() == plain.SerializeToString()


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Relu", ["nowhere"], ["y"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Unheard", ["x"], ["y"], domain="of.nobody"),
    ],
    ids=["unknown tensor", "shapes that do not fit", "unknown operator"],
)
def test_a_broken_model_is_refused_with_the_reason(node):
    model = made([node], {"w": np.ones((4, 2), np.float32)})
    if node.domain:
        model.opset_import.append(helper.make_opsetid(node.domain, 1))
    with pytest.raises(Inapplicable, match="not a valid model: ."):
        graph.checked(model)


def test_a_name_is_new():
    model = made([helper.make_node("Relu", ["x"], ["y"])], {"y_0": np.ones(1, np.float32)})
    assert graph.unused_name(model, "z") == "z"
    assert graph.unused_name(model, "y") == "y_1"
