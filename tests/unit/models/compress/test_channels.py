import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress.channels import ChannelGraph
from models.compress.cost import multiply_adds, weight_bytes
from models.compress.graph import weights, with_weights
from models.compress.mending import Lengths
from models.session import Session

RANDOM = np.random.default_rng(3)


def node(operator, inputs, output, **attributes):
    outputs = [output] if isinstance(output, str) else output
    return helper.make_node(operator, inputs.split(), outputs, **attributes)


def network(nodes, constants, shape=("rows", 4, 6, 6), opset=18):
    """A graph from `x` to `y`; a shape stands for random weights of it, an array for itself."""
    arrays = {
        name: value if isinstance(value, np.ndarray) else RANDOM.normal(size=value).astype(np.float32)
        for name, value in constants.items()
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, rows=3):
    shape = [dim.dim_value or rows for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    (y,) = Session(model.SerializeToString()).run({"x": x}).values()
    return y


def places(model):
    return {
        frozenset((place.weight, place.axis, place.positions.shape[1]) for place in group.places)
        for group in ChannelGraph(model).groups
    }


def sized(model):
    return {name: array.shape for name, array in weights(model).items()}


def silenced(model, group, gone, readers):
    """The model in which nobody reads some channels: their columns in the weights of readers are 0."""
    changed = {}
    for place in group.places:
        if place.weight in readers:
            array = changed.get(place.weight, weights(model)[place.weight]).copy()
            np.moveaxis(array, place.axis, 0)[place.positions[gone].ravel()] = 0.0
            changed[place.weight] = array
    assert set(changed) == set(readers)
    return with_weights(model, changed)


def assert_removal_equals_silence(model, readers, groups=1):
    """Take out every other channel of the one group; who reads them must not tell the difference."""
    graph = ChannelGraph(model)
    assert len(graph.groups) == groups
    group = next(g for g in graph.groups if set(readers) <= {place.weight for place in g.places})
    kept = np.arange(0, group.size, 2)
    gone = np.setdiff1d(np.arange(group.size), kept)

    narrow = graph.removed({group.name: kept})

    np.testing.assert_allclose(run(narrow), run(silenced(model, group, gone, readers)), atol=1e-4)
    widths = graph.widths() | {group.name: len(kept)}
    assert multiply_adds(narrow) == graph.multiply_adds(widths) < multiply_adds(model)
    assert graph.saved(graph.widths(), group.name, len(kept)) == multiply_adds(model) - multiply_adds(narrow)
    return narrow


CONV = {"pads": [1, 1, 1, 1]}


def test_a_channel_goes_from_its_maker_its_norm_and_its_reader():
    model = network(
        [
            node("Conv", "x w1 b1", "c", **CONV),
            node("BatchNormalization", "c s b m v", "n"),
            node("Relu", "n", "r"),
            node("Conv", "r w2", "y"),
        ],
        {"w1": (8, 4, 3, 3), "b1": (8,), "s": (8,), "b": (8,), "m": (8,), "v": np.ones(8, np.float32),
         "w2": (3, 8, 1, 1)},
    )  # fmt: skip

    narrow = assert_removal_equals_silence(model, ["w2"])

    assert sized(narrow) == {"w1": (4, 4, 3, 3), "b1": (4,), "s": (4,), "b": (4,), "m": (4,), "v": (4,),
                             "w2": (3, 4, 1, 1)}  # fmt: skip


def test_a_residual_sum_ties_all_that_is_added():
    model = network(
        [
            node("Conv", "x w1", "a"),
            node("Conv", "a w2", "b"),
            node("Conv", "b w3", "c"),
            node("Add", "a c", "sum"),
            node("Conv", "sum w4", "y"),
        ],
        {"w1": (8, 4, 1, 1), "w2": (6, 8, 1, 1), "w3": (8, 6, 1, 1), "w4": (2, 8, 1, 1)},
    )

    assert places(model) == {
        frozenset({("w1", 0, 1), ("w2", 1, 1), ("w3", 0, 1), ("w4", 1, 1)}),
        frozenset({("w2", 0, 1), ("w3", 1, 1)}),
    }


def test_depthwise_channels_go_with_their_group():
    model = network(
        [node("Conv", "x w1", "a"), node("Conv", "a w2", "b", group=8, **CONV), node("Conv", "b w3", "y")],
        {"w1": (8, 4, 1, 1), "w2": (16, 1, 3, 3), "w3": (2, 16, 1, 1)},
    )

    narrow = assert_removal_equals_silence(model, ["w3"])

    assert sized(narrow) == {"w1": (4, 4, 1, 1), "w2": (8, 1, 3, 3), "w3": (2, 8, 1, 1)}


def test_of_a_grouped_convolution_whole_groups_go():
    model = network(
        [node("Conv", "x w1", "a"), node("Conv", "a w2", "b", group=4), node("Conv", "b w3", "y")],
        {"w1": (8, 4, 1, 1), "w2": (12, 2, 1, 1), "w3": (2, 12, 1, 1)},
    )

    narrow = assert_removal_equals_silence(model, ["w3"])

    assert sized(narrow) == {"w1": (4, 4, 1, 1), "w2": (6, 2, 1, 1), "w3": (2, 6, 1, 1)}


@pytest.mark.parametrize("flat", [node("Flatten", "p", "f"), node("Reshape", "p target", "f")])
def test_behind_a_flattening_a_channel_is_as_many_columns_as_it_has_places(flat):
    model = network(
        [node("Conv", "x w1", "c"), node("MaxPool", "c", "p", kernel_shape=[3, 3], strides=[3, 3]), flat,
         node("Gemm", "f w2", "y", transB=1)],
        {"w1": (8, 4, 1, 1), "w2": (5, 8 * 4), "target": np.array([-1, 32])},
    )  # fmt: skip

    narrow = assert_removal_equals_silence(model, ["w2"])

    assert sized(narrow)["w2"] == (5, 4 * 4)


def test_behind_a_flattening_with_channels_last_too():
    model = network(
        [node("Conv", "x w1", "c"), node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("Flatten", "t", "f"),
         node("Gemm", "f w2", "y")],
        {"w1": (8, 4, 5, 5), "w2": (8 * 4, 5)},
    )  # fmt: skip

    assert places(model) == {frozenset({("w1", 0, 1), ("w2", 0, 4)})}
    assert_removal_equals_silence(model, ["w2"])


def test_joined_channels_keep_their_places():
    model = network(
        [node("Conv", "x w1", "a"), node("Conv", "x w2", "b"), node("Concat", "a b", "j", axis=1),
         node("Conv", "j w3", "y")],
        {"w1": (6, 4, 1, 1), "w2": (8, 4, 1, 1), "w3": (2, 14, 1, 1)},
    )  # fmt: skip
    graph = ChannelGraph(model)
    second = next(group for group in graph.groups if group.name == "w2:0")
    gone = np.array([0, 7])

    narrow = graph.removed({"w2:0": np.arange(1, 7)})

    assert [place.positions[0].tolist() for place in second.places] == [[0], [6]]
    assert sized(narrow) == {"w1": (6, 4, 1, 1), "w2": (6, 4, 1, 1), "w3": (2, 12, 1, 1)}
    np.testing.assert_allclose(run(narrow), run(silenced(model, second, gone, ["w3"])), atol=1e-4)


@pytest.mark.parametrize(
    ("opset", "attributes", "sizes"),
    [(11, {"split": [8, 8]}, ""), (13, {}, ""), (18, {"num_outputs": 2}, ""), (18, {}, " sizes")],
)
def test_gated_halves_go_in_pairs(opset, attributes, sizes):
    model = network(
        [node("Conv", "x w1", "a"), node("Split", "a" + sizes, ["s", "t"], axis=1, **attributes),
         node("Sigmoid", "t", "g"), node("Mul", "s g", "m"), node("Conv", "m w2", "y")],
        {"w1": (16, 4, 1, 1), "w2": (2, 8, 1, 1), "sizes": np.array([8, 8])},
        opset=opset,
    )  # fmt: skip

    narrow = assert_removal_equals_silence(model, ["w2"])

    assert sized(narrow)["w1"] == (8, 4, 1, 1)


ATTENTION = {"wq": (12, 12), "wk": (12, 12), "wv": (12, 12), "wo": (12, 12), "heads": np.array([0, 0, 4, 3]),
             "merged": np.array([0, 0, 12])}  # fmt: skip


def attention(split, merge):
    """Four heads of three; `split` and `merge` are the names of the shapes."""
    return [
        *(
            part
            for letter, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
            for part in (
                node("MatMul", f"x w{letter}", letter),
                node("Reshape", f"{letter} {split}", f"{letter}r"),
                node("Transpose", f"{letter}r", f"{letter}h", perm=order),
            )
        ),
        node("MatMul", "qh kh", "scores"),
        node("Softmax", "scores", "p", axis=-1),
        node("MatMul", "p vh", "mixed"),
        node("Transpose", "mixed", "back", perm=[0, 2, 1, 3]),
        node("Reshape", f"back {merge}", "m"),
        node("MatMul", "m wo", "y"),
    ]


def test_heads_go_as_a_whole():
    model = network(attention("heads", "merged"), ATTENTION, shape=("rows", 5, 12))

    assert places(model) == {frozenset({("wq", 1, 3), ("wk", 1, 3), ("wv", 1, 3), ("wo", 0, 3)})}
    narrow = assert_removal_equals_silence(model, ["wo"])
    assert sized(narrow)["wq"] == (12, 6)


def test_shapes_that_are_computed_are_replaced():
    computed = [
        node("Shape", "x", "shape", start=0, end=2),
        node("Concat", "shape tail", "heads", axis=0),
        node("Concat", "shape width", "merged", axis=0),
        *attention("heads", "merged"),
    ]
    constants = {name: value for name, value in ATTENTION.items() if name not in ("heads", "merged")}
    model = network(
        computed, {**constants, "tail": np.array([4, 3]), "width": np.array([12])}, shape=("rows", "length", 12)
    )

    narrow = assert_removal_equals_silence(model, ["wo"])

    # Both axes are as free as they were.
    x = RANDOM.normal(size=(2, 9, 12)).astype(np.float32)
    assert Session(narrow.SerializeToString()).run({"x": x})["y"].shape == (2, 9, 12)


def test_heads_of_one_projection_for_all_three():
    model = network(
        [
            node("MatMul", "x w", "a"),
            node("Reshape", "a parts", "r"),
            node("Transpose", "r", "t", perm=[2, 0, 3, 1, 4]),
            *(node("Gather", f"t {at}", at + "h", axis=0) for at in ("q", "k", "v")),
            node("Transpose", "kh", "kt", perm=[0, 1, 3, 2]),
            node("MatMul", "qh kt", "s"),
            node("Softmax", "s", "p"),
            node("MatMul", "p vh", "m"),
            node("Transpose", "m", "back", perm=[0, 2, 1, 3]),
            node("Reshape", "back whole", "f"),
            node("MatMul", "f wo", "y"),
        ],
        {"w": (12, 36), "wo": (12, 12), "parts": np.array([0, 0, 3, 4, 3]), "whole": np.array([0, 0, -1]),
         "q": np.array(0), "k": np.array(1), "v": np.array(2)},
        shape=("rows", 5, 12),
    )  # fmt: skip

    assert places(model) == {frozenset({("w", 1, 9), ("wo", 0, 3)})}
    assert_removal_equals_silence(model, ["wo"])


@pytest.mark.parametrize("computed", [False, True])
def test_what_is_repeated_for_each_row_keeps_its_own_length(computed):
    target = (
        [node("Shape", "x", "rows", start=0, end=1), node("Concat", "rows one width", "target", axis=0)]
        if computed
        else []
    )
    model = network(
        [*target, node("Expand", "token target", "t"), node("MatMul", "x w", "a"), node("Concat", "t a", "j", axis=1),
         node("MatMul", "j w2", "y")],
        {"token": (1, 1, 8), "w": (4, 8), "w2": (8, 3), "one": np.array([1]), "width": np.array([8]),
         **({} if computed else {"target": np.array([1, 1, 8])})},
        shape=("rows" if computed else 1, 3, 4),
    )  # fmt: skip
    graph = ChannelGraph(model)
    group = graph.groups[0]

    narrow = graph.removed({group.name: np.arange(5)})

    assert sized(narrow)["token"] == (1, 1, 5)
    gone = np.array([5, 6, 7])
    np.testing.assert_allclose(run(narrow), run(silenced(model, group, gone, ["w2"])), atol=1e-4)


def test_what_no_rule_understands_is_left_alone():
    model = network(
        [node("Conv", "x w1", "a"), node("TopK", "a k", ["t", "i"], axis=1), node("Conv", "t w2", "y")],
        {"w1": (8, 4, 1, 1), "w2": (2, 8, 1, 1), "k": np.array([8])},
    )

    assert ChannelGraph(model).groups == ()


def test_inputs_and_outputs_keep_their_channels():
    model = network([node("Conv", "x w", "y")], {"w": (8, 4, 1, 1)})

    assert ChannelGraph(model).groups == ()


def test_classes_that_compete_are_left_alone():
    model = network(
        [node("MatMul", "x w1", "a"), node("Softmax", "a", "p"), node("MatMul", "p w2", "y")],
        {"w1": (4, 8), "w2": (8, 3)},
        shape=("rows", 4),
    )

    assert ChannelGraph(model).groups == ()


def test_what_a_channel_costs_is_what_goes_with_it():
    model = network(
        [node("Gemm", "x w1 b1", "a"), node("Relu", "a", "r"), node("Gemm", "r w2", "y")],
        {"w1": (4, 8), "b1": (8,), "w2": (8, 3)},
        shape=("rows", 4),
    )
    graph = ChannelGraph(model)
    (group,) = graph.groups

    narrow = graph.removed({group.name: np.arange(7)})

    assert group.size == 8
    assert group.block == 1
    assert group.multiply_adds == 4 + 3 == multiply_adds(model) - multiply_adds(narrow)
    assert group.bytes == 4 * (4 + 1 + 3) == weight_bytes(model) - weight_bytes(narrow)


def test_nothing_taken_out_changes_nothing():
    model = network([node("Conv", "x w1", "a"), node("Conv", "a w2", "y")], {"w1": (8, 4, 1, 1), "w2": (2, 8, 1, 1)})

    assert np.array_equal(run(ChannelGraph(model).removed({})), run(model))


def test_a_group_that_is_not_there_is_told():
    model = network([node("Conv", "x w1", "a"), node("Conv", "a w2", "y")], {"w1": (8, 4, 1, 1), "w2": (2, 8, 1, 1)})

    with pytest.raises(ValueError, match="w9"):
        ChannelGraph(model).removed({"w9:0": np.arange(2)})


def test_lengths_know_which_nodes_changed():
    lengths = Lengths({"a": (2, 4), "b": (2, 4)}, {"a": (2, 3), "b": (2, 4)}, {}, {})

    assert lengths.changed(node("Relu", "a", "b"))
    assert not lengths.changed(node("Relu", "b", "b"))
