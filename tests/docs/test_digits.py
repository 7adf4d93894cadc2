"""The files that docs/compression.md begins with are what `gearshift compress` takes, and worth compressing."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the nets are trained with PyTorch")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from docs import digits
from models.compress.dataset import read_dataset
from models.compress.measure import measure_accuracy
from models.compress.original import read_original


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "digits"
    assert digits.main([str(made)]) == 0
    return made


@pytest.mark.parametrize("recipe", digits.RECIPES, ids=lambda recipe: recipe.name)
def test_a_net_knows_the_digits_it_never_saw(recipe: digits.Recipe, folder: Path) -> None:
    original = read_original(folder / f"{recipe.name}.onnx")
    data = read_dataset(folder / f"{recipe.name}.npz", original, test=folder / f"{recipe.name}-test.npz")
    assert [spec.name for spec in original.inputs] == [recipe.tensor]
    assert original.classes == 10
    assert measure_accuracy(original.content, original, data.test).accuracy.value > 0.93


def test_rows_to_measure_on_are_a_fifth(folder: Path) -> None:
    original = read_original(folder / "cnn.onnx")
    data = read_dataset(folder / "cnn.npz", original, test=folder / "cnn-test.npz")
    assert (len(data.train) + len(data.validation), len(data.test)) == (1438, 359)
