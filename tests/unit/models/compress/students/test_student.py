import numpy as np
import pytest
import torch

from models.compress.cost import multiply_adds as multiply_adds_of_graph
from models.compress.dataset import Rows
from models.compress.export import exported
from models.compress.original import Original
from models.compress.students.inputs import kind_of
from models.compress.students.student import StudentSpec, families, make, multiply_adds, sizes_up_to
from models.compress.training import TrainingPlan, learn, scores_of_module
from models.compress.workbench import Workbench
from models.session import Session
from tests.support import compress

MADE = {"cnn": compress.digits_cnn, "mlp": compress.digits_mlp, "tokens": compress.digits_tokens}
CASES = [
    ("cnn", StudentSpec("separable", 8, 1)),
    ("cnn", StudentSpec("fire", 16, 1)),
    ("cnn", StudentSpec("efficient", 8, 1)),
    ("cnn", StudentSpec("residual", 8, 1)),
    ("mlp", StudentSpec("perceptron", 16, 1)),
    ("tokens", StudentSpec("bag", 32, 0)),
    ("tokens", StudentSpec("transformer", 16, 1)),
]


@pytest.mark.parametrize(("made", "spec"), CASES, ids=[spec.family for _, spec in CASES])
def test_every_family_learns_and_stands_in_for_the_original(tmp_path, made, spec):
    original, dataset = MADE[made]()
    bench = compress.bench(original, dataset, tmp_path)
    student = make(spec, kind_of(dataset.train), original.classes)
    learned = learn(student, bench, TrainingPlan(epochs=4, batch_rows=32), spec.label)
    assert learned.score >= learned.scores[0] + 0.1
    model = exported(student, bench)
    session = Session(model.SerializeToString())
    assert (session.inputs, session.outputs) == (original.session.inputs, original.session.outputs)
    logits = torch.from_numpy(scores_of_module(student, dataset.test))
    # The mlp gives probabilities, so its students do.
    expected = torch.softmax(logits, dim=1) if made == "mlp" else logits
    for rows in (1, 3, len(dataset.test)):
        (scores,) = session.run(dataset.test.take(slice(0, rows)).inputs).values()
        np.testing.assert_allclose(scores, expected[:rows], rtol=1e-4, atol=1e-4)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert multiply_adds_of_graph(model) == multiply_adds(student, dataset.train)


@pytest.mark.parametrize("family", ["separable", "fire", "efficient", "residual"])
@pytest.mark.parametrize("shape", [(8, 8), (3, 17, 9), (224, 224, 3), (1, 28, 28)])
def test_image_students_read_any_size_and_layout(family, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)
    kind = kind_of(Rows({"image": pixels}, None))
    student = make(StudentSpec(family, 8, 2), kind, 5).eval()
    assert student({"image": torch.from_numpy(pixels)}).shape == (4, 5)
    # What is big is made small soon: work grows slower than the pixels.
    assert multiply_adds(student, Rows({"image": pixels}, None)) < 60e6


def test_a_student_sees_pixels_of_mean_0_and_deviation_1():
    pixels = np.random.default_rng(0).normal((100.0, 3.0), (20.0, 0.1), (500, 8, 8, 2)).astype("f")
    student = make(StudentSpec("separable", 8, 1), kind_of(Rows({"image": pixels}, None)), 3).eval()
    seen = []
    student.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    student({"image": torch.from_numpy(pixels)})
    torch.testing.assert_close(seen[0].mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(seen[0].std(dim=(0, 2, 3)), torch.ones(2), atol=1e-2, rtol=0.0)


@pytest.mark.parametrize("spec", [StudentSpec("bag", 16, 0), StudentSpec("transformer", 16, 2)])
def test_padding_changes_no_answer(spec):
    ids = np.random.default_rng(0).integers(1, 50, (6, 10))
    ids[:, 6:] = 0
    student = make(spec, kind_of(Rows({"ids": ids}, None)), 4).eval()
    long = student({"ids": torch.from_numpy(ids)})
    torch.testing.assert_close(long, student({"ids": torch.from_numpy(ids[:, :6])}), atol=1e-5, rtol=1e-4)
    words = ids.copy()
    words[:, 5] = 0
    assert not torch.allclose(long, student({"ids": torch.from_numpy(words)}))
    # A row of nothing but padding has an answer too, and words never seen as well.
    assert student({"ids": torch.tensor([[0] * 10, [999] * 10])}).isfinite().all()


def test_tokens_of_free_length_keep_it_in_the_exported_graph(tmp_path):
    random = np.random.default_rng(0)
    ids = random.integers(1, 30, (40, 12))
    rows = Rows({"input_ids": ids, "attention_mask": (ids < 25).astype(np.int64), "token_type_ids": ids * 0}, None)
    original = free_length_original()
    bench = Workbench(original, rows, rows, tmp_path)
    student = make(StudentSpec("transformer", 16, 1), kind_of(rows), 3)
    session = Session(exported(student, bench).SerializeToString())
    assert session.inputs == original.session.inputs
    for length in (1, 7, 12, 20):
        longer = {name: np.resize(array, (5, length)) for name, array in rows.inputs.items()}
        (scores,) = session.run(longer).values()
        np.testing.assert_allclose(scores, scores_of_module(student, Rows(longer, None)), rtol=1e-4, atol=1e-4)


def free_length_original():
    """The mean of ids, three times, of inputs as a BERT takes them."""
    from onnx import TensorProto, helper

    names = ("input_ids", "attention_mask", "token_type_ids")
    nodes = [helper.make_node("Cast", [name], [f"float {name}"], to=TensorProto.FLOAT) for name in names]
    nodes += [helper.make_node("ReduceMean", [f"float {name}", "one"], [f"mean {name}"]) for name in names]
    nodes.append(helper.make_node("Concat", [f"mean {name}" for name in names], ["scores"], axis=1))
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"]) for name in names],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content = model.SerializeToString()
    session = Session(content)
    return Original("means", content, session.inputs, session.outputs[0])


def test_equal_seeds_make_equal_students_and_leave_randomness_alone():
    kind = kind_of(compress.digits_mlp()[1].train)
    state = torch.get_rng_state()
    first, same, other = (make(StudentSpec("perceptron", 8, 1), kind, 10, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.body[0].weight, same.body[0].weight)
    assert not torch.equal(first.body[0].weight, other.body[0].weight)


def test_a_family_for_other_inputs_is_refused():
    kind = kind_of(compress.digits_mlp()[1].train)
    assert families(kind) == ("perceptron",)
    with pytest.raises(ValueError, match="no student 'fire' for such inputs; there are: perceptron"):
        make(StudentSpec("fire", 8, 1), kind, 10)


def test_multiply_adds_are_counted_by_hand():
    _, dataset = compress.digits_mlp()
    student = make(StudentSpec("perceptron", 16, 2), kind_of(dataset.train), 10)
    assert multiply_adds(student, dataset.train) == 64 * 16 + 16 * 16 + 16 * 10
    sizes = sizes_up_to(1440, kind_of(dataset.train), 10, dataset.train)
    assert sizes[StudentSpec("perceptron", 16, 2)] == 64 * 16 + 16 * 16 + 16 * 10 == 1440
    assert set(sizes) == {StudentSpec("perceptron", *size) for size in [(8, 1), (16, 1), (8, 2), (16, 2), (8, 3)]}
