# mypy: allow-subclassing-any
"""Two small classifiers of handwritten digits and their data, made in seconds: `python -m docs.digits`.

What the examples of docs/compression.md work on. The images are the test half of a set from UCI (Alpaydin and
Kaynak, "Optical Recognition of Handwritten Digits", 1998) that comes with scikit-learn: 1,797 of 8 x 8 pixels, 0 to
16. A fifth of them is kept from the nets, to measure on.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

TEST_SHARE = 0.2
PIXEL_MEAN, PIXEL_STD = 4.884, 6.017
"""Over all images."""
OPSET = 18
BATCH_ROWS = 64
FOLDER = Path("digits")


class Cnn(nn.Module):
    """A stem, a residual block, a wider block at half the size, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _normed(1, 32)
        self.first, self.second = _normed(32, 32), _normed(32, 32)
        self.wider = _normed(32, 64, stride=2)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Any) -> Any:
        """[n, 1, 8, 8] pixels -> [n, 10] logits."""
        features = torch.relu(self.stem((image - PIXEL_MEAN) / PIXEL_STD))
        features = torch.relu(features + self.second(torch.relu(self.first(features))))
        return self.head(torch.relu(self.wider(features)).mean(dim=(2, 3)))


class Mlp(nn.Sequential):
    """[n, 64] pixels -> [n, 10] logits, by two wide layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one of the nets is made."""

    name: str
    net: type[nn.Module]
    tensor: str
    """What its input is called."""
    shape: tuple[int, ...]
    """Of one row."""
    epochs: int
    peak_rate: float


RECIPES = (
    Recipe("cnn", Cnn, "image", (1, 8, 8), epochs=10, peak_rate=0.01),
    Recipe("mlp", Mlp, "pixels", (64,), epochs=15, peak_rate=0.005),
)


def make(folder: Path) -> None:
    """Train the nets and write NAME.onnx, NAME.npz and NAME-test.npz of each; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    data, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(data))
    test, train = np.split(order, [round(TEST_SHARE * len(data))])
    for recipe in RECIPES:
        rows = data.astype(np.float32).reshape(-1, *recipe.shape)
        for suffix, chosen in (("", train), ("-test", test)):
            arrays = {recipe.tensor: rows[chosen], "labels": labels[chosen]}
            np.savez(folder / f"{recipe.name}{suffix}.npz", **arrays)
        net = _trained(recipe, rows[train], labels[train])
        _export(net, recipe, rows[:2], folder / f"{recipe.name}.onnx")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m docs.digits", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where to write. Default: %(default)s")
    folder: Path = parser.parse_args(arguments).folder
    make(folder)
    sys.stdout.write(f"{', '.join(sorted(str(path) for path in folder.iterdir()))}: written\n")
    return 0


def _normed(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    """A 3 x 3 convolution with batch normalisation."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def _trained(recipe: Recipe, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> nn.Module:
    """A net after its epochs of AdamW in one cycle of the rate; one thread, so that the weights are the same ones."""
    inputs, truth = torch.from_numpy(rows), torch.from_numpy(labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = recipe.net().train()
            batches = [part for _ in range(recipe.epochs) for part in torch.randperm(len(inputs)).split(BATCH_ROWS)]
            optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.peak_rate, weight_decay=0.01)
            rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=len(batches))
            for index in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(inputs[index]), truth[index]).backward()
                optimizer.step()
                rates.step()
    finally:
        torch.set_num_threads(threads)
    return net.eval()


def _export(net: nn.Module, recipe: Recipe, example: NDArray[np.float32], path: Path) -> None:
    """Write the ONNX file, its first axis free."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # It misses torchvision, which nothing here needs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own use of PyTorch.
        torch.onnx.export(
            net,
            (torch.from_numpy(example),),
            path,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[recipe.tensor],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            verbose=False,
        )


if __name__ == "__main__":
    raise SystemExit(main())
