import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress.dataset import Rows, split
from models.compress.lessons import altered, lessons
from models.compress.original import Original, log_probabilities
from models.compress.students.inputs import Images
from models.compress.workbench import Workbench
from models.session import Session
from tests.support import compress

SIDE = 24


def images_of(layout, channels, height, width):
    return Images("image", layout, channels, height, width, np.zeros(channels, "f"), np.ones(channels, "f"))


def test_images_are_moved_and_mirrored_in_any_layout():
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    moves = np.array([[1, 0, 0], [0, -1, 1]], np.int16)
    moved = altered({"image": pixels}, images_of("nhw", 1, 3, 4), moves)["image"]
    # One row down, the edge repeated above.
    np.testing.assert_array_equal(moved[0], pixels[0][[0, 0, 1]])
    # Mirrored, and the mirror image moved a column to the left.
    np.testing.assert_array_equal(moved[1], pixels[1][:, [2, 1, 0, 0]])
    assert moved.dtype == np.uint8
    first = altered({"image": pixels[:, None]}, images_of("nchw", 1, 3, 4), moves)["image"]
    last = altered({"image": pixels[..., None]}, images_of("nhwc", 1, 3, 4), moves)["image"]
    np.testing.assert_array_equal(first[:, 0], moved)
    np.testing.assert_array_equal(last[..., 0], moved)


def bench_of(weights, tmp_path):
    """A linear model of 24 x 24 images with those weights for the first of two classes."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        ],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.stack([weights.ravel(), -weights.ravel()], axis=1).astype("f"), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = Session(content)
    random = np.random.default_rng(0)
    data = split(Rows({"image": random.normal(size=(400, SIDE, SIDE)).astype("f")}, None))
    return Workbench(
        Original("linear", content, session.inputs, session.outputs[0]), data.train, data.validation, tmp_path
    )


def test_only_what_the_original_is_indifferent_to_is_done(tmp_path):
    ramp = np.arange(SIDE) - (SIDE - 1) / 2
    down = np.tile(ramp[:, None], (1, SIDE))
    # What counts is where on the vertical: mirroring is nothing to it, moving is.
    allowed = lessons(bench_of(down, tmp_path / "down"), ("mirror", "shift"), 2)
    assert allowed.alterations == ("mirror",)
    assert not allowed.moves[..., :2].any()
    assert 0.4 < allowed.moves[1:, :, 2].mean() < 0.6
    # Where on the horizontal: neither.
    nothing = lessons(bench_of(down.T, tmp_path / "right"), ("mirror", "shift"), 2)
    assert (nothing.alterations, nothing.copies) == ((), 1)


def test_the_original_answers_for_the_very_copies_that_are_shown(tmp_path):
    bench = bench_of(np.tile(np.arange(SIDE)[:, None] - 11.5, (1, SIDE)), tmp_path)
    told = lessons(bench, ("mirror", "shift"), 3)
    assert told.copies == 4
    index = np.arange(len(bench.train))
    for copy in range(told.copies):
        shown = told.inputs(index, np.full(len(index), copy))
        expected = log_probabilities(bench.original.scores(Rows(shown, None)))
        np.testing.assert_allclose(told.answers[copy], expected, atol=1e-5)
    np.testing.assert_array_equal(told.inputs(index, np.zeros_like(index))["image"], bench.train.inputs["image"])


def test_what_was_asked_once_is_read_the_next_time(tmp_path):
    bench = bench_of(np.tile(np.arange(SIDE)[:, None] - 11.5, (1, SIDE)), tmp_path)
    first = lessons(bench, ("mirror",), 2)
    asked = []
    again = dataclasses.replace(bench, known={}, progress=lambda *what: asked.append(what))
    second = lessons(again, ("mirror",), 2)
    assert asked == []
    np.testing.assert_array_equal(first.answers, second.answers)
    np.testing.assert_array_equal(first.moves, second.moves)


def test_a_slow_original_is_asked_about_fewer_copies(tmp_path, monkeypatch):
    bench = bench_of(np.tile(np.arange(SIDE)[:, None] - 11.5, (1, SIDE)), tmp_path)
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    assert lessons(dataclasses.replace(bench, deadline_s=4000.0), ("mirror",), 40).copies < 41


def test_digits_may_be_neither_mirrored_nor_moved(tmp_path):
    bench = compress.bench(*compress.digits_cnn(), tmp_path)
    assert lessons(bench, ("mirror", "shift"), 2).alterations == ()


def test_vectors_are_left_as_they_are(tmp_path):
    bench = compress.bench(*compress.digits_mlp(), tmp_path)
    assert lessons(bench, ("mirror", "shift"), 2).copies == 1


def test_an_alteration_nobody_knows_is_told(tmp_path):
    bench = compress.bench(*compress.digits_mlp(), tmp_path)
    with pytest.raises(ValueError, match=r"unknown alterations \['turn'\]: there are mirror, shift"):
        lessons(bench, ("turn",), 2)
