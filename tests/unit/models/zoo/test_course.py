import math
from dataclasses import asdict, dataclass, replace

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the demo families are trained")

from models.zoo.course import Course, one_cycle, train  # noqa: E402 - after the skip

ROWS = 64


@dataclass(frozen=True)
class Run:
    net: str = "tiny"
    epochs: int = 3
    seed: int = 7

    def facts(self):
        return asdict(self)


class Noisy(Course):
    """Learns the sign of a sum, with dropout, so that the order of batches and the state of chance both count."""

    judged_by = "held_out"

    def __init__(self, *, killed_after=math.inf, milestones=frozenset({2, 3})):
        net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        super().__init__(net, torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9), milestones)
        self.rows = torch.randn((ROWS, 4), generator=torch.Generator().manual_seed(0))
        self.steps_left = killed_after
        self.progress = []

    def batches(self, random):
        return torch.randperm(ROWS, generator=random).split(16)

    def loss(self, places, random):
        if self.steps_left == 0:
            raise KeyboardInterrupt
        self.steps_left -= 1
        rows = self.rows[places] + 0.1 * torch.randn((len(places), 4), generator=random)
        return torch.nn.functional.softplus(-self.net(rows)[:, 0] * rows.sum(dim=1).sign()).mean()

    def set_rates(self, progress):
        self.progress.append(progress)
        self.optimizer.param_groups[0]["lr"] = 0.1

    def accuracy(self):
        self.net.eval()
        with torch.inference_mode():
            return float((self.net(self.rows)[:, 0].sign() == self.rows.sum(dim=1).sign()).float().mean())


def read(file):
    return torch.load(file, weights_only=True)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    rates = [one_cycle(step / 100, 0.2) for step in range(101)]
    top = rates.index(max(rates))
    assert top / 100 == pytest.approx(0.2)
    assert max(rates) == pytest.approx(1.0)
    assert 0 < rates[0] < 0.1
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("steps", [0, 2, 4, 9])  # four are an epoch
def test_interrupted_training_ends_as_if_it_were_not(tmp_path, capsys, steps):
    whole = read(train(Run(), Noisy, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(Run(), lambda: Noisy(killed_after=steps), tmp_path / "parts")
    capsys.readouterr()
    torch.rand(5)  # what chance does in between must not matter
    parts = train(Run(), Noisy, tmp_path / "parts")
    assert (f"going on after epoch {steps // 4}" in capsys.readouterr().out) is (steps >= 4)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["tiny.pt"]
    found = read(parts)
    assert same(found["weights"], whole["weights"])
    assert found["held_out_accuracy"] == whole["held_out_accuracy"]
    for ours, theirs in zip(found["snapshots"], whole["snapshots"], strict=True):
        assert same(ours, theirs)


def test_killed_before_the_weights_were_kept_it_does_not_train_on(tmp_path):
    whole = train(Run(), Noisy, tmp_path)
    expected = read(whole)
    partial = {**expected, "epoch": 3, "optimizer": Noisy().optimizer.state_dict()}
    torch.save(partial, tmp_path / "tiny.partial.pt")
    whole.unlink()
    found = read(train(Run(), lambda: Noisy(killed_after=0), tmp_path))
    assert same(found["weights"], expected["weights"])
    assert found["held_out_accuracy"] == expected["held_out_accuracy"]


def test_the_net_at_each_milestone_is_kept(tmp_path):
    state = read(train(Run(), Noisy, tmp_path))
    first, last = state["snapshots"]
    assert same(last, state["weights"])
    assert not same(first, last)
    plain = read(train(replace(Run(), net="plain"), lambda: Noisy(milestones=frozenset()), tmp_path))
    assert plain.keys() == {"run", "weights", "seconds", "held_out_accuracy"}


def test_finished_training_is_not_repeated_but_other_settings_are_trained(tmp_path, capsys):
    first = read(train(Run(), Noisy, tmp_path))["weights"]
    capsys.readouterr()

    def enrol():
        raise AssertionError("a net that is trained needs no course")

    assert same(read(train(Run(), enrol, tmp_path))["weights"], first)
    assert "already trained" in capsys.readouterr().out
    assert not same(read(train(replace(Run(), seed=8), Noisy, tmp_path))["weights"], first)
    assert "other settings" in capsys.readouterr().out


def test_rates_are_set_for_each_step_and_gradients_are_cut(tmp_path):
    courses = []

    def enrol(most_gradient=None):
        courses.append(Noisy())
        courses[-1].most_gradient = most_gradient
        return courses[-1]

    free = read(train(Run(), enrol, tmp_path / "free"))
    assert courses[0].progress == [epoch + step / 4 for epoch in range(3) for step in range(4)]
    cut = read(train(Run(), lambda: enrol(1e-3), tmp_path / "cut"))
    torch.manual_seed(Run().seed)
    start = Noisy().net.state_dict()
    moved = [sum(float((each["weights"][name] - start[name]).norm()) for name in start) for each in (free, cut)]
    assert moved[1] < 0.05 * moved[0]
