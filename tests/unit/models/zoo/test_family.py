import hashlib
import logging

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is only installed where the demo families are built")

import onnx
from onnx import TensorProto, helper

from models.manifest import MANIFEST_NAME, Family, TensorSpec, read_manifest
from models.zoo.errors import BuildError
from models.zoo.family import Examination, best_first, publish, read_weights, run_build
from tests.support.tiny_models import model, value

SCORES = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
EXAM = Examination(
    family="tiny",
    dataset="four rows",
    test=(SCORES, np.array([0, 1, 2, 1])),
    choices_by="held_out",
    chosen=(SCORES[:2], np.array([0, 1])),
)


def echo(operator):
    """Answers with what it was asked, or with its negative."""
    node = helper.make_node(operator, ["scores"], ["classes"])
    content = model(
        [node], [value("scores", TensorProto.FLOAT, "rows", 3)], [value("classes", TensorProto.FLOAT, "rows", 3)]
    )
    return onnx.load_from_string(content)


def family_in(folder, version="1"):
    variants = [EXAM.write(folder, "wrong", echo("Neg"), {}), EXAM.write(folder, "right", echo("Identity"), {})]
    return Family(
        name="tiny",
        version=version,
        description="Rows of scores.",
        license="Apache-2.0",
        inputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
        outputs=(TensorSpec(name="classes", datatype="FP32", shape=(-1, 3)),),
        variants=best_first(variants),
    )


def test_a_variant_is_written_and_measured_on_both_data(tmp_path):
    variant = EXAM.write(tmp_path, "right", echo("Identity"), {"design": "echo"})
    content = (tmp_path / "right.onnx").read_bytes()
    assert (variant.file, variant.size_bytes) == ("right.onnx", len(content))
    assert variant.sha256 == hashlib.sha256(content).hexdigest()
    assert variant.accuracy == 0.75
    assert (variant.evidence.dataset, variant.evidence.samples) == ("four rows", 4)
    expected = "python -m models.evaluate models/zoo/families/tiny/1 --dataset tiny --variant right"
    assert variant.evidence.command == expected
    assert (variant.recipe["design"], variant.recipe["held_out_accuracy"]) == ("echo", 1.0)
    assert variant.recipe["versions"]["onnx"] == onnx.__version__


def test_a_family_is_published_as_a_whole_best_first(tmp_path):
    out = tmp_path / "new" / "1"
    publish(out, family_in)
    assert {file.name for file in out.iterdir()} == {MANIFEST_NAME, "right.onnx", "wrong.onnx"}
    assert [variant.name for variant in read_manifest(out / MANIFEST_NAME).variants] == ["right", "wrong"]
    assert [file.name for file in out.parent.iterdir()] == ["1"]


def test_a_family_takes_the_place_of_the_old_one_unless_it_fails(tmp_path):
    out = tmp_path / "1"
    out.mkdir()
    (out / "old").write_text("old")

    def failing(folder):
        family_in(folder)
        raise BuildError("no")

    with pytest.raises(BuildError):
        publish(out, failing)
    assert [file.name for file in tmp_path.rglob("*")] == ["1", "old"]
    publish(out, family_in)
    assert not (out / "old").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["1"]


def test_a_net_that_was_not_trained_is_told_with_the_command_that_does(tmp_path):
    with pytest.raises(BuildError, match=r"net\.0\.pt is missing: python -m models\.zoo\.tiny\.train --nets net "):
        read_weights(tmp_path, "tiny", "net", "net.0")


def test_a_build_ends_with_its_sum_or_with_what_is_missing(tmp_path, capsys):
    out = tmp_path / "1"
    assert run_build(lambda: publish(out, family_in), out) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    total = sum(file.stat().st_size for file in out.glob("*.onnx"))
    assert last == f"2 variants, {total:,} bytes: {out / MANIFEST_NAME}"

    def failing():
        raise BuildError("train first")

    assert run_build(failing, out) == 1
    assert capsys.readouterr().err == "train first\n"


def test_a_build_leaves_the_levels_of_the_loggers(tmp_path):
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx")]
    levels = [logger.level for logger in loggers]

    def heard():
        assert all(logger.level == logging.ERROR for logger in loggers)
        raise BuildError("nothing to build from")

    assert run_build(heard, tmp_path) == 1
    assert [logger.level for logger in loggers] == levels
