import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.compress import storage
from models.compress.errors import Inapplicable
from models.session import Session


def product(weight: np.ndarray) -> onnx.ModelProto:
    """x [n, 1] -> x times every weight, [n, weights]: one row of 1 shows the weights."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["w", "flat"], ["row"]), helper.make_node("Mul", ["x", "row"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.size])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1, -1]), "flat")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def unpacked(weight: np.ndarray, pack: storage.Pack) -> np.ndarray:
    """The weights as ONNX Runtime sees them after packing."""
    packed = storage.with_packed(product(weight), {"w": weight}, pack)
    onnx.checker.check_model(packed, full_check=True)
    row = Session(packed.SerializeToString()).run({"x": np.ones((1, 1), np.float32)})["y"]
    return row.reshape(weight.shape)


@settings(deadline=None, max_examples=40)
@given(st.integers(256, 400), st.sampled_from([4, 8]), st.sampled_from([16, 32, 64]), st.floats(1e-3, 1e3))
def test_blocks_are_within_half_a_step_of_the_greatest(size, bits, block, scale):
    weight = (np.random.default_rng(size).standard_normal(size) * scale).astype(np.float32)
    found = unpacked(weight, storage.blocks(bits, block))
    padded = np.pad(np.abs(weight), (0, -size % block)).reshape(-1, block)
    greatest = 2 ** (bits - 1) - 1
    step = padded.max(axis=1) / greatest
    errors = np.pad(np.square(found - weight), (0, -size % block)).reshape(-1, block)
    # No worse than rounding over the whole range; float16 rounds the scale by 2^-11.
    assert (errors.mean(axis=1) <= np.square(step * 0.5 + greatest * step * 2**-11) * 1.01).all()


def test_a_shape_that_blocks_do_not_divide_comes_back():
    weight = np.random.default_rng(0).standard_normal((7, 3, 5, 5)).astype(np.float32)
    found = unpacked(weight, storage.blocks(8, 64))
    np.testing.assert_allclose(found, weight, atol=np.abs(weight).max() / 127)


def test_a_block_of_zeros_stays_zero():
    assert not unpacked(np.zeros((16, 16), np.float32), storage.blocks(4, 32)).any()


def test_four_bits_cut_outliers_where_that_loses_less():
    rng = np.random.default_rng(0)
    weight = rng.laplace(size=(64, 32)).astype(np.float32)
    whole = np.abs(weight).max(axis=1, keepdims=True) / 7
    naive = np.square(np.rint(weight / whole) * whole - weight).mean()
    assert np.square(unpacked(weight, storage.blocks(4, 32)) - weight).mean() < 0.95 * naive


def test_halves_take_the_wider_range_only_where_it_is_needed():
    small = np.full((16, 16), 1.0009765625, np.float32)  # 1 + 2^-10: float16 holds it, bfloat16 does not
    np.testing.assert_array_equal(unpacked(small, storage.halves), small)
    large = np.full((16, 16), 2.0**20, np.float32)
    np.testing.assert_array_equal(unpacked(large, storage.halves), large)
    (stored,) = storage.halves("w", small).tensors.values()
    assert stored.nbytes == small.nbytes / 2


def test_an_input_that_only_names_a_weight_is_no_input_afterwards():
    weight = np.ones((16, 16), np.float32)
    model = product(weight)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 16]))
    packed = storage.with_packed(model, {"w": weight}, storage.halves)
    assert [value.name for value in packed.graph.input] == ["x"]


def test_readers_are_those_of_large_float_weights():
    model = product(np.ones((16, 16), np.float32))
    (reader,) = storage.readers(model)
    assert reader.op_type == "Reshape"
    model.graph.node[0].name = "reshape"
    assert list(storage.read_by(model, {"reshape"})) == ["w"]
    assert storage.read_by(model, {"other"}) == {}
    with pytest.raises(Inapplicable, match="256 elements"):
        storage.readers(product(np.ones((15, 17), np.float32)))
