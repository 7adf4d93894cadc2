import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the demo family is trained")

from models.zoo.fashion import train as module  # noqa: E402 - after the skip
from models.zoo.fashion.data import Images  # noqa: E402
from models.zoo.fashion.nets import NETS, NetPlan, SeparableNet, Served  # noqa: E402
from models.zoo.fashion.train import MOST_SHIFT, WARM_UP, Run, augment, learning_rate, train  # noqa: E402

PLAN = NetPlan(
    make=lambda: SeparableNet(4), design="tiny", cycles=(2, 1), peak_rate=0.1, weight_decay=0.0, bfloat16=False
)
RUN = Run(net="tiny", cycles=(2, 1), seed=7, peak_rate=0.1, weight_decay=0.0, batch_rows=32, held_out=50)


def few_images():
    random = np.random.default_rng(1)
    return Images(
        pixels=random.integers(0, 256, (250, 28, 28), dtype=np.uint8),
        labels=random.integers(0, 10, 250, dtype=np.uint8),
    )


def weights_of(file):
    return torch.load(file, weights_only=True)["weights"]


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    rates = [learning_rate(step / 100, 0.2) for step in range(101)]
    top = rates.index(max(rates))
    assert top / 100 == pytest.approx(WARM_UP)
    assert max(rates) == pytest.approx(0.2)
    assert 0 < rates[0] < 0.01
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_augmented_images_are_moved_and_mirrored_copies():
    spot = torch.zeros((400, 28, 28), dtype=torch.uint8)
    spot[:, 14, 10] = 200
    moved = augment(spot, torch.Generator().manual_seed(0))
    assert moved.shape == spot.shape
    assert moved.dtype == torch.uint8
    assert (moved.sum(dim=(1, 2), dtype=torch.int64) == 200).all()
    _, rows, columns = torch.nonzero(moved, as_tuple=True)
    reach = range(-MOST_SHIFT, MOST_SHIFT + 1)
    assert set(rows.tolist()) == {14 + shift for shift in reach}
    assert set(columns.tolist()) == {start + shift for start in (10, 27 - 10) for shift in reach}


def test_interrupted_training_ends_as_if_it_were_not(tmp_path, monkeypatch, capsys):
    images = few_images()
    whole = train(RUN, PLAN, images, tmp_path / "whole")

    real = module._train_epoch

    def killed_in_epoch_2(run, plan, net, teacher, optimizer, epoch, *data):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(run, plan, net, teacher, optimizer, epoch, *data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_train_epoch", killed_in_epoch_2)
        with pytest.raises(KeyboardInterrupt):
            train(RUN, PLAN, images, tmp_path / "parts")
    capsys.readouterr()
    parts = train(RUN, PLAN, images, tmp_path / "parts")
    assert "going on after epoch 2" in capsys.readouterr().out
    assert same(weights_of(parts), weights_of(whole))
    kept = torch.load(parts, weights_only=True)["snapshots"]
    assert len(kept) == 2
    assert same(kept[-1], weights_of(parts))
    assert not same(kept[0], kept[1])
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["tiny.pt"]


def test_finished_training_is_not_repeated_but_other_settings_are_trained(tmp_path, capsys):
    images = few_images()
    first = weights_of(train(RUN, PLAN, images, tmp_path))
    capsys.readouterr()
    assert same(weights_of(train(RUN, PLAN, images, tmp_path)), first)
    assert "already trained" in capsys.readouterr().out
    other = dataclasses.replace(RUN, seed=8)
    assert not same(weights_of(train(other, PLAN, images, tmp_path)), first)


def settled(net):
    """The net in evaluation mode, with batch statistics that make its answers depend on its input."""
    net.train()
    with torch.no_grad():
        for _ in range(30):
            net(module.Normalise()(torch.randint(0, 256, (16, 28, 28), dtype=torch.uint8)))
    return net.eval()


def test_later_cycles_rise_half_as_high():
    rates = [RUN.rate(step / 50) for step in range(150)]
    assert max(rates[:100]) == pytest.approx(0.1)
    assert max(rates[100:]) == pytest.approx(0.05)
    assert rates[99] < 0.001
    assert [RUN.place(progress)[0] for progress in (0.0, 1.9, 2.0, 2.9, 3.0)] == [0, 0, 1, 1, 1]


def test_erasing_covers_a_share_of_some_images():
    pixels = torch.full((500, 28, 28), 7, dtype=torch.uint8)
    erased = module.erase(pixels, 0.5, torch.Generator().manual_seed(0))
    changed = (erased != pixels).float().mean(dim=(1, 2))
    assert 0.35 < (changed > 0).float().mean() < 0.55
    assert 0.01 < changed[changed > 0].mean() < 0.2
    assert torch.equal(module.erase(pixels, 0.0, torch.Generator().manual_seed(0)), pixels)


def test_a_student_learns_from_its_teacher(tmp_path, monkeypatch):
    images = few_images()
    monkeypatch.setattr(module, "NETS", {"tiny": PLAN})
    train(RUN, PLAN, images, tmp_path)
    taught = dataclasses.replace(RUN, net="student", teacher="tiny")
    assert not same(weights_of(train(taught, PLAN, images, tmp_path)), weights_of(tmp_path / "tiny.pt"))


def test_soft_targets_by_hand():
    logits, taught = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    # At temperature 2 the answers are softmax(1, 0) and softmax(0, 1): p = 0.7311.
    p = 1 / (1 + math.exp(-1))
    by_hand = 4 * (p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p))
    assert module.soft_loss(logits, taught).item() == pytest.approx(by_hand, rel=1e-4)
    assert module.soft_loss(logits, logits).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_served_net_computes_what_the_trained_one_does(name):
    torch.manual_seed(0)
    net = settled(NETS[name].make())
    images = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8)
    served = Served(net).eval()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in served.modules())
    with torch.inference_mode():
        expected = torch.softmax(net(module.Normalise()(images)), dim=1)
        assert torch.allclose(served(images), expected, atol=1e-5)
        assert expected.std(dim=0).max() > 1e-3


def test_mirrored_net_answers_with_the_mean_of_both_views():
    torch.manual_seed(0)
    net = settled(SeparableNet(4))
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        views = [net(module.Normalise()(view)) for view in (images, images.flip(2))]
        expected = torch.softmax((views[0] + views[1]) / 2, dim=1)
        found = Served(net, mirrored=True).eval()(images)
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, torch.softmax(views[0], dim=1), atol=1e-3)
