import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress.affine import merge_affine
from models.session import Session

random = np.random.default_rng(0)

node = helper.make_node


def floats(*shape):
    return random.standard_normal(shape).astype(np.float32)


def made(nodes, constants, shape, *, outputs=("y",)):
    """A model of these nodes on x, float32 [rows, *shape]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("rows", *shape))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    content = helper.make_graph(nodes, "made", [x], values, initializers)
    return helper.make_model(content, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def operators_after_merging(model, shape):
    """The merged graph's operators, once it has been seen to compute the same."""
    before = model.SerializeToString()
    merged = merge_affine(model)
    assert model.SerializeToString() == before
    x = random.uniform(0, 255, (3, *shape)).astype(np.float32)
    expected = Session(before).run({"x": x})
    found = Session(merged.SerializeToString()).run({"x": x})
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max())
    return [n.op_type for n in merged.graph.node]


PIXELS = {"std": np.array(58.0, np.float32), "mean": np.array(120.0, np.float32)}
MEANS = {"std": 50 + 9 * np.abs(floats(3, 1, 1)), "mean": 100 + 9 * floats(1, 3, 1, 1)}
SCALED = [node("Sub", ["x", "mean"], ["centred"]), node("Div", ["centred", "std"], ["pixels"])]


@pytest.mark.parametrize("constants", [PIXELS, MEANS], ids=["scalar", "per channel"])
def test_unpadded_convolution_takes_scale_and_shift(constants):
    nodes = [*SCALED, node("Conv", ["pixels", "w", "b"], ["y"])]
    model = made(nodes, constants | {"w": floats(4, 3, 3, 3), "b": floats(4)}, (3, 8, 8))
    assert operators_after_merging(model, (3, 8, 8)) == ["Conv"]


@pytest.mark.parametrize("padding", [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}], ids=["pads", "auto_pad"])
def test_padded_convolution_takes_the_scale_and_leaves_one_addition(padding):
    nodes = [*SCALED, node("Conv", ["pixels", "w"], ["y"], **padding)]
    model = made(nodes, MEANS | {"w": floats(4, 3, 3, 3)}, (3, 8, 8))
    assert operators_after_merging(model, (3, 8, 8)) == ["Add", "Conv"]


def test_a_lone_shift_before_padding_stays_as_it_is():
    nodes = [node("Sub", ["x", "mean"], ["pixels"]), node("Conv", ["pixels", "w"], ["y"], pads=[1, 1, 1, 1])]
    model = made(nodes, {"mean": PIXELS["mean"], "w": floats(4, 3, 3, 3)}, (3, 8, 8))
    assert operators_after_merging(model, (3, 8, 8)) == ["Sub", "Conv"]


def test_channels_of_a_grouped_convolution_are_told_apart():
    nodes = [*SCALED, node("Conv", ["pixels", "w"], ["y"], group=3)]
    model = made(nodes, MEANS | {"w": floats(6, 1, 3, 3)}, (3, 8, 8))
    assert operators_after_merging(model, (3, 8, 8)) == ["Conv"]


def test_channels_that_come_last_are_followed_through_the_transposition():
    constants = {"std": 50 + 9 * np.abs(floats(3)), "mean": 100 + 9 * floats(3), "w": floats(4, 3, 3, 3)}
    nodes = [*SCALED, node("Transpose", ["pixels"], ["nchw"], perm=[0, 3, 1, 2]), node("Conv", ["nchw", "w"], ["y"])]
    assert operators_after_merging(made(nodes, constants, (8, 8, 3)), (8, 8, 3)) == ["Transpose", "Conv"]


@pytest.mark.parametrize(
    ("last", "constants"),
    [
        (node("Gemm", ["pixels", "w", "b"], ["y"], transB=1, alpha=0.5), {"w": floats(4, 6), "b": floats(4)}),
        (node("Gemm", ["pixels", "w"], ["y"]), {"w": floats(6, 4)}),
    ],
    ids=["transposed, with bias", "without bias"],
)
def test_gemm_takes_what_a_normalisation_does(last, constants):
    statistics = {"g": floats(6), "o": floats(6), "m": 100 + floats(6), "v": 50 + np.abs(floats(6))}
    nodes = [node("BatchNormalization", ["x", "g", "o", "m", "v"], ["pixels"]), last]
    assert operators_after_merging(made(nodes, statistics | constants, (6,)), (6,)) == ["Gemm"]


def test_matmul_takes_the_shift_into_the_addition_behind_it():
    constants = {"two": np.array([2.0], np.float32), "w": floats(6, 4), "b": floats(4)}
    nodes = [
        node("Sub", ["two", "x"], ["turned"]),
        node("MatMul", ["turned", "w"], ["z"]),
        node("Add", ["b", "z"], ["y"]),
    ]
    assert operators_after_merging(made(nodes, constants, (5, 6)), (5, 6)) == ["MatMul", "Add"]


def test_scalars_are_followed_through_changes_of_shape():
    constants = PIXELS | {"axes": np.array([1]), "w": floats(4, 1, 3, 3), "head": floats(144, 5)}
    nodes = [
        *SCALED,
        node("Unsqueeze", ["pixels", "axes"], ["image"]),
        node("Conv", ["image", "w"], ["features"]),
        node("Mul", ["features", "std"], ["louder"]),
        node("Flatten", ["louder"], ["flat"]),
        node("Gemm", ["flat", "head"], ["y"]),
    ]
    assert operators_after_merging(made(nodes, constants, (8, 8)), (8, 8)) == ["Unsqueeze", "Conv", "Flatten", "Gemm"]


def test_weights_that_others_read_are_not_changed_for_them():
    nodes = [
        node("Mul", ["x", "two"], ["scaled"]),
        node("MatMul", ["scaled", "w"], ["left"]),
        node("MatMul", ["x", "w"], ["right"]),
        node("Add", ["left", "right"], ["y"]),
    ]
    model = made(nodes, {"two": np.array(2.0, np.float32), "w": floats(4, 4)}, (4,))
    assert operators_after_merging(model, (4,)) == ["MatMul", "MatMul", "Add"]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([node("Mul", ["x", "two"], ["scaled"]), node("MatMul", ["scaled", "w"], ["y"])], ("y", "scaled")),
        (
            [
                node("Mul", ["x", "two"], ["scaled"]),
                node("MatMul", ["scaled", "w"], ["product"]),
                node("Add", ["product", "scaled"], ["y"]),
            ],
            ("y",),
        ),
        ([node("Mul", ["x", "rows"], ["scaled"]), node("MatMul", ["scaled", "w"], ["y"])], ("y",)),
        ([node("Div", ["two", "x"], ["scaled"]), node("MatMul", ["scaled", "w"], ["y"])], ("y",)),
        ([node("Mul", ["x", "three"], ["scaled"]), node("MatMul", ["scaled", "w"], ["y"])], ("y",)),
    ],
    ids=["is an output", "is read by another", "differs along another axis", "is a reciprocal", "enlarges its input"],
)
def test_what_cannot_be_merged_stays(nodes, outputs):
    constants = {
        "two": np.array(2.0, np.float32),
        "w": floats(4, 4),
        "rows": floats(1, 2, 1),
        "three": floats(3, 1, 1, 1),
    }
    model = made(nodes, constants, (2, 4), outputs=outputs)
    assert operators_after_merging(model, (2, 4)) == [n.op_type for n in nodes]
