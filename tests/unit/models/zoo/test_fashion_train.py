import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the demo family is trained")

from models.zoo.fashion import train as module  # noqa: E402 - after the skip
from models.zoo.fashion.data import Images  # noqa: E402
from models.zoo.fashion.nets import NETS, NetPlan, SeparableNet, Served  # noqa: E402
from models.zoo.fashion.train import MOST_SHIFT, Run, augment, train  # noqa: E402

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


def test_training_keeps_the_net_at_the_end_of_each_cycle(tmp_path):
    state = torch.load(train(RUN, PLAN, few_images(), tmp_path), weights_only=True)
    assert len(state["snapshots"]) == 2
    assert state["run"] == RUN.facts()
    assert 0 <= state["held_out_accuracy"] <= 1


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
    monkeypatch.setattr(module, "NETS", {"tiny": PLAN})
    runs = [RUN, dataclasses.replace(RUN, net="student", teacher="tiny")]
    files = [train(run, PLAN, few_images(), tmp_path) for run in runs]
    alone, taught = (torch.load(file, weights_only=True)["weights"] for file in files)
    assert not all(torch.equal(alone[name], taught[name]) for name in alone)


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
