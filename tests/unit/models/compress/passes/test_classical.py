import numpy as np
import pytest
from onnx import TensorProto, helper

from models.compress import cost
from models.compress.dataset import Rows, split
from models.compress.errors import Inapplicable
from models.compress.original import Original, are_probabilities, scores_of
from models.compress.passes.classical import Classical
from models.session import Session
from tests.support import compress, tiny_models
from tests.support.compress import digits_cnn, digits_mlp, digits_tokens


@pytest.mark.parametrize(
    ("make", "step", "least", "share"),
    [
        (digits_cnn, Classical("linear"), 0.94, 0.002),
        (digits_cnn, Classical("fourier", 256), 0.96, 0.06),
        (digits_mlp, Classical("linear"), 0.94, 0.03),
        (digits_mlp, Classical("trees", 32), 0.9, 0.09),
        (digits_tokens, Classical("places"), 0.88, 0.0),
        (digits_tokens, Classical("linear"), 0.2, 0.0),
    ],
    ids=lambda value: value.label if isinstance(value, Classical) else getattr(value, "__name__", None),
)
def test_it_stands_in_for_the_original_at_a_fraction_of_its_work(tmp_path, make, step, least, share):
    original, dataset = make()
    model = step.apply(original.model(), compress.bench(original, dataset, tmp_path))
    session = Session(model.SerializeToString())
    assert (session.inputs, session.outputs) == (original.inputs, (original.output,))
    assert compress.accuracy(model, dataset) >= least
    assert cost.multiply_adds(model) <= share * cost.multiply_adds(original.model())
    found = scores_of(session, "scores", dataset.test)
    assert are_probabilities(found) == are_probabilities(original.scores(dataset.test))


def test_equal_seeds_equal_models(tmp_path):
    original, dataset = digits_mlp()
    step = Classical("fourier", 32)
    bench = compress.bench(original, dataset, tmp_path)
    first, second = (step.apply(original.model(), bench).SerializeToString() for _ in range(2))
    assert first == second


def test_choices_follow_the_inputs(tmp_path):
    labels = {
        make.__name__: [s.label for s in Classical.choices(make()[0].model(), compress.bench(*make(), tmp_path))]
        for make in (digits_cnn, digits_mlp, digits_tokens)
    }
    assert labels == {
        "digits_cnn": ["fourier-512", "linear"],
        "digits_mlp": ["fourier-512", "linear", "trees"],
        "digits_tokens": ["places", "linear"],
    }


@pytest.mark.parametrize("step", [Classical("linear"), Classical("trees", 8)], ids=["linear", "trees"])
def test_classes_without_rows_get_the_lowest_scores_and_the_original_teaches(tmp_path, step):
    original, dataset = digits_mlp()
    rows = dataset.train
    few = np.flatnonzero(np.isin(original.scores(rows).argmax(axis=1), (3, 8)))
    unlabelled = split(Rows(dict(rows.take(few).inputs), None))
    model = step.apply(original.model(), compress.bench(original, unlabelled, tmp_path))
    scores = scores_of(Session(model.SerializeToString()), "scores", unlabelled.test)
    assert scores.shape[1] == 10
    assert set(scores.argmax(axis=1)) == {3, 8}
    expected = original.scores(unlabelled.test).argmax(axis=1)
    assert (scores.argmax(axis=1) == expected).mean() > 0.9


def test_bytes_are_scaled_inside(tmp_path):
    """An original that reads unsigned bytes [n, 8, 8] gets a stand-in that does."""
    _, dataset = digits_cnn()
    pixels = np.concatenate([part.inputs["image"] for part in (dataset.train, dataset.test)])[:, 0]
    labels = np.concatenate([part.labels for part in (dataset.train, dataset.test)])
    content = tiny_models.model(
        [
            helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        ],
        [tiny_models.value("bytes", TensorProto.UINT8, "rows", 8, 8)],
        [tiny_models.value("scores", TensorProto.FLOAT, "rows", 10)],
        {"w": np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)},
    )
    session = Session(content)
    original = Original("bytes", content, session.inputs, session.outputs[0])
    data = split(Rows({"bytes": (pixels * 15).astype(np.uint8)}, labels))
    model = Classical("linear").apply(original.model(), compress.bench(original, data, tmp_path))
    assert compress.accuracy(model, data) > 0.93


def test_one_class_is_refused(tmp_path):
    original, dataset = digits_mlp()
    one = split(dataset.train.take(np.flatnonzero(dataset.train.labels == 3)))
    with pytest.raises(Inapplicable, match="one class"):
        Classical().apply(original.model(), compress.bench(original, one, tmp_path))
