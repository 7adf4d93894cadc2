import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import evaluate as module
from models.evaluate import Accuracy, EvaluationError, Verdict, evaluate, main, wilson_interval
from models.manifest import MANIFEST_NAME, Family, TensorSpec, Variant

# Scores are the inputs themselves: the greatest of a row is its class. Rows 0 to 8 are right, row 9 is not.
INPUTS = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]]
LABELS = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 0], dtype=np.uint8)


def identity_model(inputs=("scores_in",)):
    """An ONNX file that answers with its first input."""
    row = ["rows", 5]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [inputs[0]], ["scores"])],
        "identity",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, row) for name in inputs],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, row)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def write_family(folder: Path, stated: dict[str, float | None], content: bytes | None = None):
    content = identity_model() if content is None else content
    variants = []
    for name, accuracy in stated.items():
        (folder / f"{name}.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        variants.append(
            Variant(name=name, file=f"{name}.onnx", sha256=digest, size_bytes=len(content), accuracy=accuracy)
        )
    family = Family(
        name="echo",
        inputs=(TensorSpec(name="scores_in", datatype="FP32", shape=(-1, 5)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 5)),),
        variants=tuple(variants),
    )
    (folder / MANIFEST_NAME).write_text(family.to_json(), encoding="utf-8")


@pytest.fixture
def dataset(monkeypatch):
    """The one data set of these tests, under the name 'ten'."""
    monkeypatch.setattr(module, "DATASETS", {"ten": lambda folder: (INPUTS, LABELS)})
    return "ten"


@pytest.mark.parametrize("batch_rows", [1, 3, 10, 11])
def test_counts_every_row_once_whatever_the_batch(batch_rows):
    sizes = []

    def classify(rows):
        sizes.append(len(rows))
        return rows

    assert evaluate(classify, INPUTS, LABELS, batch_rows) == Accuracy(right=9, samples=10)
    assert sum(sizes) == 10
    assert max(sizes) <= batch_rows


def test_refuses_missing_labels_and_nothing():
    with pytest.raises(EvaluationError, match="10 inputs and 9 labels"):
        evaluate(lambda rows: rows, INPUTS, LABELS[:9])
    with pytest.raises(EvaluationError, match="0 inputs"):
        evaluate(lambda rows: rows, INPUTS[:0], LABELS[:0])


@pytest.mark.parametrize("spoil", [lambda rows: rows[:-1], lambda rows: rows.argmax(1)])
def test_refuses_scores_of_another_shape(spoil):
    with pytest.raises(EvaluationError, match=r"expected \[rows, classes\]"):
        evaluate(spoil, INPUTS, LABELS)


def test_interval_agrees_with_published_values():
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_proportion_and_mirrors(counts):
    right, samples = counts
    low, high = wilson_interval(right, samples)
    assert 0 <= low <= right / samples <= high <= 1
    assert wilson_interval(samples - right, samples) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("right", "samples"), [(0, 0), (-1, 5), (6, 5)])
def test_interval_refuses_what_is_no_proportion(right, samples):
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(right, samples)


@pytest.mark.parametrize(
    ("stated", "holds"), [(0.9, True), (0.901, True), (0.899, True), (0.9011, False), (0.8, False), (None, True)]
)
def test_verdict_allows_a_thousandth(stated, holds):
    assert Verdict("any", Accuracy(9_000, 10_000), stated).holds is holds


def test_true_manifest_passes(tmp_path, dataset, capsys):
    write_family(tmp_path, {"big": 0.9, "small": 0.9})
    assert main([str(tmp_path), "--dataset", dataset]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["big", "0.9000"], ["small", "0.9000"]]


def test_wrong_figure_fails_and_is_named(tmp_path, dataset, capsys):
    write_family(tmp_path, {"honest": 0.9, "boaster": 0.95})
    assert main([str(tmp_path), "--dataset", dataset]) == 1
    honest, boaster = capsys.readouterr().out.splitlines()[1:]
    assert "off by more" not in honest
    assert "off by more than 0.001" in boaster


def test_one_variant_as_json(tmp_path, dataset, capsys):
    write_family(tmp_path, {"honest": 0.9, "boaster": 0.95})
    assert main([str(tmp_path), "--dataset", dataset, "--variant", "honest", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    low, high = wilson_interval(9, 10)
    assert report == {
        "family": "echo",
        "version": "1",
        "dataset": "ten",
        "variants": [
            {
                "variant": "honest",
                "accuracy": 0.9,
                "interval": [low, high],
                "samples": 10,
                "manifest": 0.9,
                "holds": True,
            }
        ],
    }


def test_unmeasured_manifest_is_reported_not_failed(tmp_path, dataset, capsys):
    write_family(tmp_path, {"only": None})
    assert main([str(tmp_path), "--dataset", dataset]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "-"


def test_changed_file_is_not_measured(tmp_path, dataset, capsys):
    write_family(tmp_path, {"only": 0.9})
    file = tmp_path / "only.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    assert main([str(tmp_path), "--dataset", dataset]) == 1
    assert "the file is damaged or was changed" in capsys.readouterr().err


def test_each_thing_that_is_missing_is_told(tmp_path, dataset, capsys):
    assert main([str(tmp_path), "--dataset", dataset]) == 1
    assert MANIFEST_NAME in capsys.readouterr().err

    write_family(tmp_path, {"only": 0.9})
    assert main([str(tmp_path), "--dataset", dataset, "--variant", "other"]) == 1
    assert "no variant 'other' in 'echo': it has only" in capsys.readouterr().err

    (tmp_path / "only.onnx").unlink()
    assert main([str(tmp_path), "--dataset", dataset]) == 1
    assert "'only'" in capsys.readouterr().err


def test_what_does_not_run_is_told(tmp_path, dataset, capsys):
    write_family(tmp_path, {"only": 0.9}, content=b"not a model")
    assert main([str(tmp_path), "--dataset", dataset]) == 1
    assert "'only'" in capsys.readouterr().err

    write_family(tmp_path, {"only": 0.9}, content=identity_model(("scores_in", "mask")))
    assert main([str(tmp_path), "--dataset", dataset]) == 1
    assert "inputs in the graph that the manifest does not name" in capsys.readouterr().err


def test_absent_dataset_is_told(tmp_path, capsys):
    write_family(tmp_path, {"only": 0.9})
    assert main([str(tmp_path), "--dataset", "fashion", "--data", str(tmp_path / "nowhere")]) == 1
    assert "dataset-fashion-mnist" in capsys.readouterr().err


def test_absent_babel_is_told(tmp_path, capsys, monkeypatch):
    write_family(tmp_path, {"only": 0.9})
    monkeypatch.setitem(sys.modules, "babel", None)  # as if it were not installed
    assert main([str(tmp_path), "--dataset", "text"]) == 1
    told = capsys.readouterr().err
    assert "Babel, which is not installed here" in told
    assert "pip install babel==" in told


def test_a_folder_for_data_that_have_none_is_refused(tmp_path, capsys):
    write_family(tmp_path, {"only": 0.9})
    assert main([str(tmp_path), "--dataset", "text", "--data", str(tmp_path)]) == 1
    assert "not from a folder" in capsys.readouterr().err
