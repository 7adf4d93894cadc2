import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from models.compress.dataset import Rows
from models.compress.errors import CompressError
from models.compress.opset import opset_of
from models.compress.original import are_probabilities, log_probabilities, read_original
from models.session import Session

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def value(name, *shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))


def linear(
    *, nodes=None, inputs=None, outputs=None, opset=17, ir_version=8, domains=(), constants=None, functions=()
) -> onnx.ModelProto:
    """x [rows, 4] -> scores [rows, 3], unless told otherwise."""
    constants = {"w": WEIGHTS, **(constants or {})}
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "linear",
        inputs or [value("x", "rows", 4)],
        outputs or [value("scores", "rows", 3)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=functions)


@pytest.fixture
def write(tmp_path):
    def write(model, name="linear.onnx"):
        path = tmp_path / name
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return write


def refusal(path, **options) -> str:
    with pytest.raises(CompressError) as caught:
        read_original(path, **options)
    text = str(caught.value)
    assert "Traceback" not in text
    assert "onnxruntime_src" not in text
    return text


class TestGoodFiles:
    def test_keeps_the_bytes_of_a_plain_file(self, write):
        path = write(linear())
        original = read_original(path)
        assert original.content == path.read_bytes()
        assert (original.name, original.classes) == ("linear", 3)
        assert [spec.shape for spec in original.inputs] == [(-1, 4)]
        assert original.output.shape == (-1, 3)
        rows = Rows({"x": np.eye(4, dtype=np.float32)}, None)
        np.testing.assert_array_equal(original.scores(rows), WEIGHTS)

    def test_learns_the_number_of_classes_from_a_run_where_the_file_is_silent(self, write):
        original = read_original(write(linear(outputs=[value("scores", "rows", "classes")])))
        assert original.output.shape == (-1, 3)

    def test_takes_further_free_axes(self, write):
        nodes = [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "w"], ["scores"]),
        ]
        original = read_original(write(linear(nodes=nodes, inputs=[value("x", "rows", "length", 4)])))
        assert original.inputs[0].shape == (-1, -1, 4)

    def test_takes_a_model_whose_tokens_are_beyond_random_values(self, write):
        """Nothing can be learnt from a failed probe, and nothing is held against the model."""
        nodes = [
            helper.make_node("Gather", ["w", "x"], ["words"]),
            helper.make_node("ReduceMean", ["words"], ["scores"], axes=[1], keepdims=0),
        ]
        original = read_original(write(linear(nodes=nodes, inputs=[value("x", "rows", 8, kind=TensorProto.INT64)])))
        assert original.classes == 3

    def test_names_the_model(self, write):
        path = write(linear(), "my net (final).onnx")
        assert read_original(path).name == "my-net-final"
        assert read_original(path, name="net").name == "net"
        assert "--name" in refusal(path, name="my net")


class TestFiles:
    def test_missing(self, tmp_path):
        assert "no such file" in refusal(tmp_path / "gone.onnx")

    def test_folder(self, tmp_path):
        assert "name the .onnx file" in refusal(tmp_path)

    def test_empty(self, write):
        assert "empty" in refusal(write(b""))

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_cut_off(self, write, share):
        content = linear().SerializeToString()
        assert "cut off" in refusal(write(content[: int(len(content) * share)]))

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"PK\x03\x04" + b"a" * 99, "PyTorch"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
            (b"\x80\x04\x95", "pickle"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"<!DOCTYPE html>", "web page"),
            (b"\x18\x00\x00\x00TFL3", "TFLite"),
            (b"\x08\x08", "no graph"),
            (b"some words", "no ONNX file"),
        ],
    )
    def test_says_what_a_foreign_file_is(self, write, content, kind):
        assert kind in refusal(write(content))

    def test_names_that_are_no_text(self, write):
        content = linear().SerializeToString().replace(b"scores", b"sc\xff\xfees")
        assert "names that are no text" in refusal(write(content))

    def test_bytes_changed_at_random_are_refused_or_taken_but_never_crash(self, write):
        content, rng = linear().SerializeToString(), np.random.default_rng(0)
        refused = 0
        for _ in range(150):
            changed = bytearray(content)
            for at in rng.integers(0, len(content), 2):
                changed[at] = rng.integers(256)
            try:
                read_original(write(bytes(changed)))
            except CompressError:
                refused += 1
        assert refused > 50

    def test_breaking_the_rules(self, write):
        nodes = [helper.make_node("MatMul", ["x", "nowhere"], ["scores"])]
        assert "nowhere" in refusal(write(linear(nodes=nodes)))


class TestExternalData:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        onnx.save(linear(), folder / "linear.onnx", save_as_external_data=True, location="linear.bin", size_threshold=0)
        return folder

    def relocate(self, folder, location):
        model = onnx.load(folder / "linear.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location
        (folder / "linear.onnx").write_bytes(model.SerializeToString())
        return folder / "linear.onnx"

    def test_is_taken_into_the_model(self, folder):
        original = read_original(folder / "linear.onnx")
        rows = Rows({"x": np.eye(4, dtype=np.float32)}, None)
        np.testing.assert_array_equal(Session(original.content).run(rows.inputs)["scores"], WEIGHTS)
        assert original.sha256 == read_original(folder / "linear.onnx").sha256

    def test_missing(self, folder):
        (folder / "linear.bin").unlink()
        assert "linear.bin" in refusal(folder / "linear.onnx")

    def test_cut_off(self, folder):
        (folder / "linear.bin").write_bytes(b"1234")
        assert "another file that cannot be used" in refusal(folder / "linear.onnx")

    @pytest.mark.parametrize("location", ["../outside.bin", "{folder}/outside.bin", "link.bin", "hard.bin", ""])
    def test_outside_its_folder_is_never_read(self, folder, location):
        outside = folder.parent / "outside.bin"
        shutil.copy(folder / "linear.bin", outside)
        (folder / "link.bin").symlink_to(outside)
        os.link(outside, folder / "hard.bin")
        path = self.relocate(folder, location.format(folder=folder.parent))
        assert "in the model's own folder, as a plain file" in refusal(path)

    def test_of_two_gigabytes(self, folder):
        model = onnx.load(folder / "linear.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "length":
                entry.value = str(3 * 2**30)
        (folder / "linear.onnx").write_bytes(model.SerializeToString())
        assert "3.0 GB of weights" in refusal(folder / "linear.onnx")


class TestVersions:
    @pytest.mark.parametrize("opset", [8, 10])
    def test_raises_an_old_opset(self, write, opset):
        original = read_original(write(linear(opset=opset, ir_version=4)))
        assert opset_of(original.model()) == 13
        rows = Rows({"x": np.eye(4, dtype=np.float32)}, None)
        np.testing.assert_array_equal(original.scores(rows), WEIGHTS)

    def test_leaves_the_oldest_that_is_handled(self, write):
        path = write(linear(opset=11, ir_version=6))
        assert read_original(path).content == path.read_bytes()

    @pytest.mark.parametrize("opset", [onnx.defs.onnx_opset_version() + 40, 2**60])
    def test_refuses_an_opset_the_runtime_does_not_know(self, write, opset):
        text = refusal(write(linear(opset=opset)))
        assert "opset_version=" in text
        newest = int(text.split("none above ")[1].split(":")[0])
        assert read_original(write(linear(opset=newest, ir_version=10))).classes == 3

    def test_refuses_a_format_the_runtime_does_not_know(self, write):
        assert "ir_version" in refusal(write(linear(ir_version=40)))


class TestOperators:
    def test_names_custom_ones(self, write):
        nodes = [helper.make_node("Magic", ["x", "w"], ["scores"], domain="acme.ops")]
        text = refusal(write(linear(nodes=nodes, domains=["acme.ops"])))
        assert "acme.ops::Magic" in text

    def test_finds_custom_ones_in_branches(self, write):
        inner = helper.make_graph(
            [helper.make_node("Magic", ["x"], ["out"], domain="acme.ops")], "then", [], [value("out", "rows", 3)]
        )
        other = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["out2"])], "else", [], [value("out2", "rows", 3)]
        )
        nodes = [helper.make_node("If", ["which"], ["scores"], then_branch=inner, else_branch=other)]
        model = linear(nodes=nodes, domains=["acme.ops"], constants={"which": np.array(True)})
        assert "acme.ops::Magic" in refusal(write(model))

    def test_takes_the_functions_a_model_brings(self, write):
        body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
        function = helper.make_function(
            "acme.ops", "Product", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)], []
        )
        nodes = [helper.make_node("Product", ["x", "w"], ["scores"], domain="acme.ops")]
        assert read_original(write(linear(nodes=nodes, domains=["acme.ops"], functions=[function]))).classes == 3

    @pytest.mark.parametrize("how", ["dropout", "dropout-constant", "normalization"])
    def test_refuses_training_mode(self, write, how):
        first = helper.make_node("MatMul", ["x", "w"], ["y"])
        stats = {name: np.ones(3, np.float32) for name in ("scale", "bias", "mean", "var")}
        nodes = {
            "dropout": [first, helper.make_node("Dropout", ["y", "ratio", "on"], ["scores"])],
            "dropout-constant": [
                first,
                helper.make_node("Constant", [], ["live"], value=numpy_helper.from_array(np.array(True))),
                helper.make_node("Dropout", ["y", "ratio", "live"], ["scores"]),
            ],
            "normalization": [
                first,
                helper.make_node("BatchNormalization", ["y", *stats], ["scores", "mean2", "var2"], training_mode=1),
            ],
        }[how]
        constants = {"ratio": np.array(0.5, np.float32), "on": np.array(True), **stats}
        assert "training mode" in refusal(write(linear(nodes=nodes, constants=constants)))

    def test_takes_dropout_that_is_switched_off(self, write):
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Dropout", ["y", "ratio", "off"], ["scores"]),
        ]
        constants = {"ratio": np.array(0.5, np.float32), "off": np.array(False)}
        assert read_original(write(linear(nodes=nodes, constants=constants))).classes == 3


class TestInputsAndOutputs:
    def test_refuses_a_fixed_batch_axis(self, write):
        text = refusal(write(linear(inputs=[value("x", 1, 4)], outputs=[value("scores", 1, 3)])))
        assert "input 'x' is [1, 4]" in text
        assert "dynamic" in text

    def test_refuses_a_fixed_output_axis(self, write):
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("ReduceMean", ["y"], ["scores"], axes=[0], keepdims=1),
        ]
        text = refusal(write(linear(nodes=nodes, outputs=[value("scores", 1, 3)])))
        assert "[1, 3]" in text

    def test_refuses_a_shape_frozen_while_tracing(self, write):
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Reshape", ["y", "shape"], ["scores"]),
        ]
        model = linear(nodes=nodes, outputs=[value("scores", "rows", "classes")], constants={"shape": np.array([1, 3])})
        assert "runs with one row but not with 3" in refusal(write(model))

    def test_refuses_what_is_no_classifier(self, write):
        sums = [helper.make_node("ReduceMean", ["x"], ["scores"], axes=[1], keepdims=0)]
        assert "Only classifiers" in refusal(write(linear(nodes=sums, outputs=[value("scores", "rows")])))
        kept = [helper.make_node("ReduceMean", ["x"], ["scores"], axes=[1], keepdims=1)]
        assert "two classes" in refusal(write(linear(nodes=kept, outputs=[value("scores", "rows", 1)])))

    def test_refuses_chosen_classes(self, write):
        nodes = [helper.make_node("Cast", ["x"], ["scores"], to=TensorProto.INT64)]
        model = linear(nodes=nodes, outputs=[value("scores", "rows", 4, kind=TensorProto.INT64)])
        assert "not scores" in refusal(write(model))

    def two(self):
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node("MatMul", ["x", "other"], ["more"]),
        ]
        return linear(
            nodes=nodes,
            outputs=[value("scores", "rows", 3), value("more", "rows", 2)],
            constants={"other": np.ones((4, 2), np.float32)},
        )

    def test_asks_which_of_several_outputs(self, write):
        text = refusal(write(self.two()))
        assert "'scores' (float [rows, 3])" in text
        assert "--output" in text

    def test_keeps_the_one_asked_for_and_drops_what_only_others_need(self, write):
        original = read_original(write(self.two()), output="more")
        assert original.output.name == "more"
        assert [node.output[0] for node in original.model().graph.node] == ["more"]
        assert [tensor.name for tensor in original.model().graph.initializer] == ["other"]
        onnx.checker.check_model(original.model(), full_check=True)

    def test_says_which_outputs_there_are(self, write):
        text = refusal(write(self.two()), output="score")
        assert "no output 'score'" in text
        assert "'more'" in text


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def fitted(digits):
    return LogisticRegression(max_iter=10, tol=1.0).fit(digits[0][:300], digits[1][:300])


class TestScikitLearn:
    def test_chooses_the_probabilities(self, write, fitted, digits):
        pixels = digits[0].astype(np.float32)
        exported = to_onnx(fitted, pixels[:1], options={id(fitted): {"zipmap": False}})
        original = read_original(write(exported))
        assert original.output.name == "probabilities"
        scores = original.scores(Rows({"X": pixels[:50]}, None))
        assert are_probabilities(scores)
        np.testing.assert_allclose(scores, fitted.predict_proba(digits[0][:50]), atol=1e-4)

    def test_raises_an_old_one(self, write, fitted, digits):
        exported = to_onnx(
            fitted,
            digits[0][:1].astype(np.float32),
            options={id(fitted): {"zipmap": False}},
            target_opset={"": 9, "ai.onnx.ml": 1},
        )
        original = read_original(write(exported))
        assert opset_of(original.model()) == 13

    def test_explains_zipmap(self, write, fitted, digits):
        text = refusal(write(to_onnx(fitted, digits[0][:1].astype(np.float32))))
        assert "'zipmap': False" in text


def test_log_probabilities_of_logits_and_of_probabilities_agree():
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(log_probabilities(logits), log_probabilities(probabilities), atol=1e-5)
