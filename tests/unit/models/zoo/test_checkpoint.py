import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the demo families are trained")

from models.zoo.checkpoint import Checkpoint  # noqa: E402 - after the skip

RUN = {"net": "tiny", "seed": 1}


def test_a_state_is_read_by_the_run_that_wrote_it_alone(tmp_path, capsys):
    file = tmp_path / "new" / "tiny.pt"
    kept = Checkpoint(file, RUN)
    assert kept.read() is None
    kept.write(epoch=2)
    assert kept.read() == {"run": RUN, "epoch": 2}
    assert capsys.readouterr().out == ""
    assert Checkpoint(file, {**RUN, "seed": 2}).read() is None
    assert "tiny: tiny.pt is of a run with other settings" in capsys.readouterr().out
    kept.remove()
    kept.remove()
    assert kept.read() is None


def test_a_failed_write_leaves_the_old_state(tmp_path):
    kept = Checkpoint(tmp_path / "tiny.pt", RUN)
    kept.write(epoch=1)
    with pytest.raises(AttributeError):
        kept.write(epoch=lambda: None)  # cannot be stored
    assert kept.read() == {"run": RUN, "epoch": 1}
