"""Three small classifiers of 8 x 8 digits, trained in seconds with fixed seeds: what passes are tested on."""

import warnings
from functools import cache

import numpy as np
import onnx
import pytest
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from sklearn.datasets import load_digits

torch = pytest.importorskip("torch", reason="the originals of these tests are trained with PyTorch")

from torch import nn  # noqa: E402 - after the skip

from models.compress.dataset import Dataset, Rows, split  # noqa: E402
from models.compress.original import Original  # noqa: E402
from models.compress.workbench import Workbench  # noqa: E402
from models.session import Session  # noqa: E402

Made = tuple[Original, Dataset]

OPSET = 18
PIXEL_MEAN, PIXEL_STD = 4.884, 6.017
"""Over the data set, on its scale of 0 to 16."""


class ConvNorm(nn.Sequential):
    """A 3 x 3 convolution and its batch normalisation, left apart as many exporters leave them."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out))


class Cnn(nn.Module):
    """Pre-processing, a stem, a residual block, a wider block at half the size, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 16)
        self.first, self.second = ConvNorm(16, 16), ConvNorm(16, 16)
        self.wider = ConvNorm(16, 32, stride=2)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        """[n, 1, 8, 8] pixels of 0 to 16 -> [n, 10] logits."""
        features = torch.relu(self.stem((image - PIXEL_MEAN) / PIXEL_STD))
        features = torch.relu(features + self.second(torch.relu(self.first(features))))
        return self.head(torch.relu(self.wider(features)).mean(dim=(2, 3)))


class Mlp(nn.Sequential):
    """[n, 64] pixels of 0 to 16 -> [n, 10] logits."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


class Attention(nn.Module):
    """Self-attention of four heads, spelled out so that it is exported as MatMul and Softmax."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, tokens):
        """[n, length, width] -> the same."""
        rows, length, width = tokens.shape
        query, key, value = (
            part(tokens).reshape(rows, length, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(2, 3) / (width // self.heads) ** 0.5, dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(rows, length, width))


class Tokens(nn.Module):
    """A transformer of one layer: pixels as words of a vocabulary of 17."""

    def __init__(self, width: int = 32, length: int = 64) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(17, width), nn.Parameter(torch.randn(length, width) * 0.5)
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, pixels):
        """[n, 64] int64 of 0 to 16 -> [n, 10] logits."""
        tokens = self.words(pixels) * self.places
        tokens = tokens + self.attention(self.attention_norm(tokens))
        tokens = tokens + self.feed(self.feed_norm(tokens))
        return self.head(self.norm(tokens.mean(dim=1)))


@cache
def digits_cnn() -> Made:
    """Images NCHW float32 [n, 1, 8, 8] -> logits."""
    pixels, labels = _digits()
    return _made("digits-cnn", Cnn, "image", pixels.reshape(-1, 1, 8, 8), labels, epochs=8, rate=0.02, merged=False)


@cache
def digits_mlp() -> Made:
    """Vectors float32 [n, 64] -> probabilities."""
    pixels, labels = _digits()
    return _made("digits-mlp", Mlp, "pixels", pixels, labels, epochs=15, rate=0.01, probabilities=True)


@cache
def digits_tokens() -> Made:
    """Words int64 [n, 64] -> logits."""
    pixels, labels = _digits()
    return _made("digits-tokens", Tokens, "tokens", pixels.astype(np.int64), labels, epochs=20, rate=0.02)


def bench(original: Original, dataset: Dataset, folder) -> Workbench:
    """A workbench for one of them; `folder` is the test's own."""
    return Workbench(original, dataset.train, dataset.validation, folder)


def accuracy(model: onnx.ModelProto, dataset: Dataset) -> float:
    """Share of the test rows that a model gets right."""
    session = Session(model.SerializeToString())
    (scores,) = session.run(dataset.test.inputs).values()
    return float((scores.argmax(axis=1) == dataset.test.labels).mean())


def _digits():
    pixels, labels = load_digits(return_X_y=True)
    return pixels.astype(np.float32), labels.astype(np.int64)


def _made(
    name: str,
    make,
    tensor: str,
    data,
    labels,
    *,
    epochs: int,
    rate: float,
    probabilities: bool = False,
    merged: bool = True,
) -> Made:
    dataset = split(Rows({tensor: data}, labels))
    net = _trained(make, dataset.train.inputs[tensor], dataset.train.labels, epochs, rate)
    content = _exported(nn.Sequential(net, nn.Softmax(dim=1)) if probabilities else net, tensor, data[:2], merged)
    session = Session(content)
    return Original(name, content, session.inputs, session.outputs[0]), dataset


def _trained(make, data, labels, epochs: int, rate: float) -> nn.Module:
    data, labels = torch.tensor(data), torch.tensor(labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # The order of sums, and so the weights, depend on the number.
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = make().train()
            optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
            batches = [order.split(64) for order in (torch.randperm(len(data)) for _ in range(epochs))]
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=sum(map(len, batches)))
            for index in (index for order in batches for index in order):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(data[index]), labels[index]).backward()
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    return net.eval()


def _exported(net: nn.Module, tensor: str, example, merged: bool) -> bytes:
    """The ONNX file with a free batch axis, as PyTorch's exporter leaves it: with normalisations merged or beside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own use of PyTorch.
        program = torch.onnx.export(
            net,
            (torch.tensor(example),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            optimize=merged,
            verbose=False,
        )
    model = program.model_proto
    if not merged:
        fold_constants(model)
        remove_unused_nodes(model)
    return bytes(model.SerializeToString())
