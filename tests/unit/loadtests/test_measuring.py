from pathlib import Path

import pytest

from loadtests.durations import read_durations
from loadtests.measuring import main, measure_durations
from loadtests.simulation.served import served_family
from models.manifest import Remote, Variant
from models.repository import open_family, publish
from tests.support import tiny_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"double": tiny_models.affine(2.0), "triple": tiny_models.affine(3.0)}
    family = tiny_models.family_of(files, max_batch_rows=4)
    return publish(tmp_path, family, {f"{name}.onnx": content for name, content in files.items()})


def test_every_variant_is_measured_alone_and_in_company(folder: Path) -> None:
    artifact = open_family(folder)
    told: list[str] = []
    found = measure_durations(artifact, workers=2, samples=7, seed=3, progress=told.append)
    assert [entry.name for entry in found.variants] == [variant.name for variant in artifact.family.variants]
    for entry in found.variants:
        assert [level.busy for level in entry.levels] == [1, 2]
        for level in entry.levels:
            assert level.rows[0] == 1
            assert level.rows[-1] <= artifact.family.max_batch_rows
            assert all(len(samples) == 7 for samples in level.samples_us)
    assert len(told) == 2 * len(found.variants)
    assert (found.host.seed, found.overhead.source) == (3, "assumed")


def test_a_batch_that_takes_too_long_is_the_last(folder: Path) -> None:
    found = measure_durations(open_family(folder), workers=1, samples=2, longest_s=0.0)
    assert [level.rows for entry in found.variants for level in entry.levels] == [(1,)] * len(found.variants)


def test_the_command_writes_the_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "measured.json"
    assert main([str(folder), str(out), "--workers", "1", "--samples", "1"]) == 0
    assert read_durations(out).family == open_family(folder).key


def test_the_command_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "none"), str(tmp_path / "out.json")])
    assert ended.value.code == 2
    assert "cannot be read" in capsys.readouterr().err


def test_only_variants_with_files_are_measured_and_simulated(tmp_path: Path) -> None:
    plain = tiny_models.family_of({"double": tiny_models.affine(2.0)}, accuracies=(0.8,), max_batch_rows=4)
    cloud = Variant(name="cloud", remote=Remote(url="http://cloud.invalid", model="m"), accuracy=0.9)
    mixed = plain.model_copy(update={"variants": (cloud, *plain.variants)})
    publish(tmp_path, mixed, {"double.onnx": tiny_models.affine(2.0)})
    found = measure_durations(open_family(tmp_path / "tiny" / "1"), workers=1, samples=1)
    assert [entry.name for entry in found.variants] == ["double"]
    assert [view.name for view in served_family(mixed, found).variants] == ["double"]
