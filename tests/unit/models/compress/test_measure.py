import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress import measure as module
from models.compress.dataset import Rows
from models.compress.measure import measure_accuracy, measure_footprint, measure_speed
from models.compress.original import Original
from models.compress.race import SIZES
from models.session import Session

RNG = np.random.default_rng(0)
INPUTS = {"x": RNG.normal(size=(300, 5)).astype(np.float32)}


def scaled(weights, *, softmax=False, ballast=0) -> bytes:
    """x [rows, 5] -> x @ weights, with so many floats of which one is used."""
    constants = {"w": np.asarray(weights, np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits" if softmax else "scores"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    if ballast:
        constants["ballast"] = RNG.normal(size=(5, ballast)).astype(np.float32)
        constants["none"] = np.array(0.0, np.float32)
        last = nodes[-1].output
        last[0] = "bare"
        nodes += [
            helper.make_node("MatMul", ["x", "ballast"], ["much"]),
            helper.make_node("ReduceMean", ["much"], ["little"], axes=[1]),
            helper.make_node("Mul", ["little", "none"], ["nothing"]),
            helper.make_node("Add", ["bare", "nothing"], ["scores"]),
        ]
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 5])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def original_of(content: bytes) -> Original:
    session = Session(content)
    return Original("scaled", content, session.inputs, session.outputs[0])


@pytest.fixture
def original() -> Original:
    return original_of(scaled(np.eye(5)))


class TestAccuracy:
    def test_counts_labels(self, original):
        labels = INPUTS["x"].argmax(axis=1)
        labels[:30] = (labels[:30] + 1) % 5
        quality = measure_accuracy(original.content, original, Rows(INPUTS, labels))
        assert quality.metric == "top-1"
        assert (quality.accuracy.right, quality.accuracy.samples) == (270, 300)
        assert quality.accuracy.interval[0] < 0.9 < quality.accuracy.interval[1]
        assert quality.agreement.value == 1.0
        assert quality.kl == 0.0

    def test_counts_agreement_where_nobody_labelled(self, original):
        weights = np.eye(5)[[1, 0, 2, 3, 4]]  # swaps two classes
        quality = measure_accuracy(scaled(weights), original, Rows(INPUTS, None))
        kept = int((INPUTS["x"].argmax(axis=1) > 1).sum())
        assert quality.metric == "agreement"
        assert quality.accuracy == quality.agreement
        assert kept <= quality.agreement.right < 300

    def test_divergence_of_known_distributions(self):
        original = original_of(scaled(np.eye(5)))
        x = np.zeros((4, 5), np.float32)
        x[:, 0] = math.log(4)  # probabilities 4/8 and four times 1/8; the variant answers 1/5 everywhere
        quality = measure_accuracy(scaled(np.zeros((5, 5))), original, Rows({"x": x}, None))
        expected = 4 / 8 * math.log(5 * 4 / 8) + 4 * (1 / 8) * math.log(5 / 8)
        assert quality.kl == pytest.approx(expected, rel=1e-5)

    def test_divergence_is_the_same_of_logits_and_of_probabilities(self):
        kls = [
            measure_accuracy(
                scaled(0.5 * np.eye(5), softmax=softmax), original_of(scaled(np.eye(5), softmax=softmax)),
                Rows(INPUTS, None),
            ).kl
            for softmax in (False, True)
        ]  # fmt: skip
        assert kls[0] == pytest.approx(kls[1], rel=1e-3)
        assert kls[0] > 0.05

    def test_rows_answered_with_nan_are_wrong(self, original):
        weights = np.eye(5)
        weights[0, 0] = np.nan
        quality = measure_accuracy(scaled(weights), original, Rows(INPUTS, INPUTS["x"].argmax(axis=1)))
        assert quality.accuracy.right == 0
        assert quality.kl == math.inf
        assert quality.facts()["kl_nats"] is None


class TestFootprint:
    def test_states_sizes_and_memory(self):
        small, large = (
            measure_footprint(scaled(np.eye(5), ballast=ballast), Rows(INPUTS, None)) for ballast in (1, 500_000)
        )
        assert large.size_bytes == pytest.approx(10_000_000, rel=0.01)
        assert large.stored_bytes < large.size_bytes
        assert large.memory_bytes - small.memory_bytes > 8_000_000

    def test_memory_is_unknown_where_the_model_does_not_run(self):
        assert measure_footprint(b"no model", Rows(INPUTS, None)).memory_bytes is None


class TestSpeed:
    def test_measures_every_variant_at_the_same_sizes(self, original):
        contents = {"original": original.content, "heavy": scaled(np.eye(5), ballast=100_000)}
        speeds = measure_speed(contents, original, Rows(INPUTS, None), limit_s=1.0, workers=2)
        assert set(speeds) == set(contents)
        sizes = [timing.rows for timing in speeds["heavy"].alone]
        assert sizes == list(SIZES[: len(sizes)])
        for speed in speeds.values():
            assert [timing.rows for timing in speed.alone] == [timing.rows for timing in speed.busy] == sizes
            for timing in (*speed.alone, *speed.busy):
                assert timing.median_s <= timing.p95_s
                assert timing.ratio.low <= timing.ratio.median <= timing.ratio.high

    def test_states_times_and_ratios(self, original, monkeypatch):
        """With models that move the clock by what they are said to take, in milliseconds a row."""
        now_s = 0.0

        class Fake:
            def __init__(self, content):
                self.cost_ms = float(content)

            def run(self, inputs):
                nonlocal now_s
                now_s += self.cost_ms / 1e3 * len(inputs["x"])

        monkeypatch.setattr(module, "Session", Fake)
        original.__dict__["session"] = Fake(b"4")
        speeds = measure_speed(
            {"original": b"4", "small": b"1"}, original, Rows(INPUTS, None),
            limit_s=1e6, workers=1, clock=lambda: now_s,
        )  # fmt: skip
        for timing in speeds["small"].alone:
            assert timing.median_s == pytest.approx(0.001 * timing.rows)
            assert timing.ratio.median == pytest.approx(0.25)
        assert [timing.rows for timing in speeds["small"].alone] == list(SIZES)
        assert speeds["original"].alone[0].ratio.median == pytest.approx(1.0)
        assert speeds["small"].turns == module.MOST_TURNS

    def test_the_facts_are_plain_values(self, original):
        contents = {"original": original.content}
        speed = measure_speed(contents, original, Rows(INPUTS, None), limit_s=0.1, workers=1)["original"]
        facts = json.loads(json.dumps(speed.facts(), allow_nan=False))
        assert facts["workers"] == 1
        assert facts["alone"] == facts["busy"], "one worker is busy alone"

    def test_one_turn_at_least_and_no_turn_beyond_the_limit(self, original):
        now_s = iter(range(10**9))
        speeds = measure_speed(
            {"original": original.content}, original, Rows(INPUTS, None),
            limit_s=0.0, workers=1, clock=lambda: float(next(now_s)),
        )  # fmt: skip
        assert speeds["original"].turns == 1
        assert len(speeds["original"].alone) == 1

    @pytest.mark.parametrize("limit_s", [300.0, 1000.0])
    def test_ends_within_the_limit(self, original, limit_s):
        """On a clock that moves by a second a look, so that the host's speed does not matter."""
        now_s = iter(range(10**9))
        speeds = measure_speed(
            {"original": original.content}, original, Rows(INPUTS, None),
            limit_s=limit_s, workers=1, clock=lambda: float(next(now_s)),
        )  # fmt: skip
        assert speeds["original"].turns > 1
        assert next(now_s) <= limit_s
