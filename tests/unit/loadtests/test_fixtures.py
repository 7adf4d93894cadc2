import numpy as np
import onnxruntime as ort
import pytest

from loadtests.fixtures import build_mlp, mlp_file, reference_outputs, sample_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mlp_file(tmp_path_factory.mktemp("model"))


def test_the_model_names_its_tensors_and_leaves_the_batch_axis_free(model):
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (given,), (answered,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1]) == ("input", "tensor(float)", 784)
    assert (answered.name, answered.type, answered.shape[1]) == ("output", "tensor(float)", 10)
    assert isinstance(given.shape[0], str)
    assert given.shape[0] == answered.shape[0]


def test_answers_are_probabilities_and_a_batch_answers_as_its_rows_do(model):
    rows = sample_rows(5)
    expected = reference_outputs(model, rows)
    assert expected.shape == (5, 10)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(expected.sum(axis=1), 1.0, rtol=1e-5)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": rows})[0], expected, atol=1e-6)


def test_any_two_sample_rows_answer_differently_enough_to_see_a_mix_up(model):
    outputs = reference_outputs(model, sample_rows(64))
    distance = np.abs(outputs[:, None] - outputs[None]).max(axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 1e-2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    one = build_mlp(1).SerializeToString(deterministic=True)
    assert one == build_mlp(1).SerializeToString(deterministic=True)
    assert one != build_mlp(2).SerializeToString(deterministic=True)


def test_the_file_is_built_once_and_leaves_no_draft(tmp_path):
    path = mlp_file(tmp_path / "work")
    built_ns = path.stat().st_mtime_ns
    assert mlp_file(tmp_path / "work") == path
    assert path.stat().st_mtime_ns == built_ns
    assert list(path.parent.iterdir()) == [path]


def test_sample_rows_are_scaled_pixels():
    rows = sample_rows(3)
    assert rows.shape == (3, 784)
    assert rows.dtype == np.float32
    assert 0.0 <= rows.min() < rows.max() <= 1.0
