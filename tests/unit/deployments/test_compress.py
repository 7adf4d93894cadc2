"""`gearshift compress` asked wrongly: one clear line and exit code 2, before any work."""

import re
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from deployments.cli.compress import seconds, size_limit
from deployments.cli.main import app
from models.compress.passes.registry import NAMES, NEED_TORCH, PLACES, passes_called
from tests.support import linear


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a model and its data, the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(linear.content())
    rows = linear.rows()
    np.savez(tmp_path / "data.npz", x=rows.inputs["x"], labels=rows.labels)
    return tmp_path


@pytest.fixture
def told(folder, monkeypatch):
    """What the command says on its way out with code 2, in one line."""

    def run(*arguments, model="model.onnx", data="data.npz"):
        monkeypatch.setattr(sys, "argv", ["gearshift", "compress", *arguments])
        done = CliRunner().invoke(
            app, ["compress", model, "--data", data, "--out", "out", "--cache-dir", "cache", *arguments]
        )
        assert done.exit_code == 2, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert not (folder / "out").exists()
        return " ".join(re.sub("[│╭╮╰╯─]", " ", done.stderr).split())

    return run


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--passes", "half,zzz"), "gearshift: no pass is called 'zzz'; there are: distill,"),
        (("--passes", "int8static"), "no pass is called 'int8static' (did you mean 'int8-static'?); there are:"),
        (("--passes", " , "), "Invalid value for '--passes': names no pass"),
        (
            ("--time-budget", "soon"),
            "Invalid value for '--time-budget': 'soon' is not a duration: write 90s, 10m or 2h",
        ),
        (("--time-budget", "0s"), "'0s' is not a duration"),
        (("--time-budget", "-5m"), "'-5m' is not a duration"),
        (("--max-size", "large"), "Invalid value for '--max-size': 'large' is not a size: write 500kB, 2MB or 30%"),
        (("--max-accuracy-loss", "2"), "Invalid value for '--max-accuracy-loss'"),
        (("--most-variants", "1"), "Invalid value for '--most-variants'"),
        (("--labels", "a,b"), "gearshift: 2 labels for 4 classes"),
        (("--labels", "a,b,c,"), "none is empty"),
        (("--output", "logits"), "has no output 'logits'"),
        (("--name", "no/name"), "'no/name' cannot name a model"),
        (("--test", "data.npz"), "holds the same rows"),
        (("--test", "none.npz"), "none.npz: there is no such file"),
    ],
)
def test_options_that_make_no_sense(told, arguments, text):
    assert text in told(*arguments)


def _arrays(**changed):
    rows = linear.rows()
    arrays = {"x": rows.inputs["x"], "labels": rows.labels} | changed
    return {name: array for name, array in arrays.items() if array is not None}


def _with(array, place, value):
    copy = array.copy()
    copy[place] = value
    return copy


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (_arrays(x=None), "data.npz: lacks an array 'x'"),
        (_arrays(x=_with(linear.rows().inputs["x"], (7, 1), np.nan)), "NaN or infinite, the first in row 7"),
        (_arrays(labels=_with(linear.rows().labels, 3, 4)), "1 labels are outside 0 to 3"),
        (_arrays(x=linear.rows().inputs["x"].astype(np.float64)), "array 'x' is float64, the model takes float32"),
        (_arrays(x=linear.rows().inputs["x"][:, :5]), "expected [rows, 8]"),
        (_arrays(x=linear.rows(50).inputs["x"], labels=linear.rows(50).labels), "has 50 rows, and 100 are the least"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit(told, folder, arrays, text):
    np.savez(folder / "data.npz", **arrays)
    assert text in told()


@pytest.mark.parametrize(
    ("content", "text"),
    [(linear.content()[:200], "no ONNX file, or one that was cut off"), (b"", "is empty"), (b"PK\x03\x04", "a ZIP")],
)
def test_a_model_that_is_none(told, folder, content, text):
    (folder / "model.onnx").write_bytes(content)
    assert text in told()


def test_a_place_that_is_a_file(told, folder):
    (folder / "taken").write_text("")
    assert "taken: cannot be a repository, since" in told("--out", "taken")


def _hide(monkeypatch, *packages):
    """As where they are not installed, and nothing that needs them was imported yet."""
    for name in list(sys.modules):
        ours = name.startswith("models.compress.") and name != "models.compress.errors"
        if ours or name.partition(".")[0] in packages:
            parent, _, child = name.rpartition(".")
            if child in vars(sys.modules.get(parent, object)):  # put back afterwards, as the entry is
                monkeypatch.setattr(sys.modules[parent], child, sys.modules[name])
            monkeypatch.delitem(sys.modules, name)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_without_pytorch_what_trains_says_what_to_install(told, monkeypatch):
    _hide(monkeypatch, "torch")
    assert told("--passes", "half,channels") == (
        "gearshift: gearshift compress needs PyTorch, which serving does without: "
        "install the project with its extra 'train' beside 'compress'"
    )


@pytest.mark.parametrize("package", ["onnxslim", "optuna"])
def test_without_the_extra_it_is_named(told, monkeypatch, package):
    _hide(monkeypatch, package)
    assert f"needs {package}, which serving does without: install the project with its extra 'compress'" in told()


def test_each_pass_is_where_its_name_says_and_needs_pytorch_only_if_it_says_so(monkeypatch):
    found = passes_called(NAMES)
    assert tuple(found) == NAMES == tuple(PLACES)
    assert all(each.name == name for name, each in found.items())
    assert [each.stage for each in found.values()] == sorted(each.stage for each in found.values())
    _hide(monkeypatch, "torch")
    for name in NAMES:
        if name in NEED_TORCH:
            with pytest.raises(ModuleNotFoundError):
                passes_called([name])
        else:
            passes_called([name])


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45), (" 2 min ", 120)]
)
def test_durations(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("500kB", 500_000), ("2MB", 2_000_000), ("30%", 300), (".5 GB", 500_000_000), ("77", 77)]
)
def test_sizes(text, expected):
    limit = size_limit(text)
    assert limit is not None
    assert limit(1000) == expected


def test_no_size_is_no_limit():
    assert size_limit(None) is None
    with pytest.raises(typer.BadParameter):
        size_limit("0")


def test_the_other_verbs_do_not_wait_for_the_libraries_of_this_one():
    heavy = "{'torch', 'onnx', 'onnxruntime', 'optuna', 'sklearn', 'matplotlib', 'scipy'}"
    code = f"import sys, deployments.cli.main; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
