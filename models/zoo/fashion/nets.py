"""The networks of the demo family, in PyTorch: logits for ten classes from 28 x 28 grey images.

Two designs, each with a width to choose. `ResidualNet` is the accurate one (He et al., "Deep Residual
Learning for Image Recognition", 2015). `SeparableNet` is the fast one: each 3 x 3 convolution is split
into one a channel and one across channels (Howard et al., "MobileNets", 2017).

Every convolution is followed by batch normalisation while training; `fold_batch_norm` merges the two
for export, so that a served graph holds only convolutions.
"""
# mypy: allow-subclassing-any
# Where the types are checked PyTorch is not installed: its classes are unknown there.

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.zoo.fashion.data import LABELS, PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True, slots=True)
class Form:
    """One of the ways to serve a net: each is a variant."""

    precision: Literal["fp32", "int8", "int8w4"]
    """`int8w4`: computed in 8 bits, weights stored in 4."""
    mirrored: bool = False
    committee: bool = False
    """Whether the nets at the end of each training cycle answer together."""

    @property
    def name(self) -> str:
        """What follows the net's name in the variant's."""
        return "-".join(
            [self.precision, *(["committee"] if self.committee else []), *(["mirror"] if self.mirrored else [])]
        )


FP32 = Form("fp32")
COMMITTEE = Form("fp32", mirrored=True, committee=True)
INT8 = Form("int8")
INT8_W4 = Form("int8w4")
INT8_MIRRORED = Form("int8", mirrored=True)


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch normalisation; size-preserving at stride 1."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out),
        )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels_in, channels_out, stride=stride)
        self.second = ConvNorm(channels_out, channels_out)
        same_shape = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same_shape else ConvNorm(channels_in, channels_out, kernel=1, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        """[n, channels_in, h, w] -> [n, channels_out, h / stride, w / stride]."""
        residue = self.second(torch.relu(self.first(features)))
        return torch.relu(residue + self.shortcut(features))


class ResidualNet(nn.Module):
    """Three stages of residual blocks, at 28, 14 and 7 pixels, each twice as wide as the last."""

    def __init__(self, width: int, blocks: int = 2) -> None:
        """`blocks` of each stage."""
        super().__init__()
        self.stem = ConvNorm(1, width)
        outs = [width << stage for stage in range(3) for _ in range(blocks)]
        widths = (width, *outs)
        strides = [2 if stage and not block else 1 for stage in range(3) for block in range(blocks)]
        self.blocks = nn.Sequential(
            *(ResidualBlock(a, b, s) for a, b, s in zip(widths[:-1], widths[1:], strides, strict=True))
        )
        self.head = nn.Linear(4 * width, len(LABELS))

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 1, 28, 28] normalised pixels -> [n, 10] logits."""
        features = self.blocks(torch.relu(self.stem(pixels)))
        return self.head(features.mean(dim=(2, 3)))


class SeparableNet(nn.Module):
    """A strided stem and depthwise-separable convolutions, at 14, 7 and 4 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 2 * width, 4 * width, 4 * width)
        strides = (2, 1, 2, 1)
        layers: list[nn.Module] = [ConvNorm(1, width, stride=2), nn.ReLU()]
        for channels_in, channels_out, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers += [ConvNorm(channels_in, channels_in, stride=stride, groups=channels_in), nn.ReLU()]
            layers += [ConvNorm(channels_in, channels_out, kernel=1), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, len(LABELS))

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 1, 28, 28] normalised pixels -> [n, 10] logits."""
        return self.head(self.body(pixels).mean(dim=(2, 3)))


class Normalise(nn.Module):
    """The pre-processing: bytes to pixels of mean 0 and deviation 1 over the training set."""

    def forward(self, image: Tensor) -> Tensor:
        """Unsigned bytes [n, 28, 28] -> [n, 1, 28, 28]."""
        scale = 1.0 / (255.0 * PIXEL_STD)
        return (image.to(torch.float32) * scale - PIXEL_MEAN / PIXEL_STD).unsqueeze(1)


class Served(nn.Module):
    """What is exported: pre-processing, the folded net and softmax, from bytes to probabilities.

    A mirrored one shows the net each image and its mirror image, and answers with the mean of the two
    logits: twice the work for a little more accuracy, without a bigger net. Of several nets, which snapshots of
    one training may be (Huang et al., "Snapshot Ensembles", 2017), the mean answers too.
    """

    def __init__(self, *nets: nn.Module, mirrored: bool = False) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.nets = nn.ModuleList(fold_batch_norm(net) for net in nets)
        self.mirrored = mirrored

    def forward(self, image: Tensor) -> Tensor:
        """Unsigned bytes [n, 28, 28] -> probabilities [n, 10]."""
        pixels = self.normalise(image)
        views = torch.cat((pixels, pixels.flip(3))) if self.mirrored else pixels
        logits = (
            torch.stack([net(views) for net in self.nets]).mean(dim=0) if len(self.nets) > 1 else self.nets[0](views)
        )
        if self.mirrored:
            logits = logits.reshape(2, -1, len(LABELS)).mean(dim=0)
        return torch.softmax(logits, dim=1)


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of `net`, in evaluation mode, whose convolutions have absorbed their normalisation."""
    folded = copy.deepcopy(net).eval()
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvNorm):
                convolution, norm = child
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
    return folded


@dataclass(frozen=True, slots=True)
class NetPlan:
    """One net and how it is trained and built: settled on the held-out split, never on the test set."""

    make: Callable[[], nn.Module]
    design: str
    cycles: tuple[int, ...]
    """Epochs of each cycle of the learning rate."""
    peak_rate: float
    """Learning rate at the top of the first cycle."""
    weight_decay: float
    bfloat16: bool
    """Whether training computes in bfloat16: twice as fast for dense convolutions, slower for others."""
    erased: float = 0.0
    """Share of the images that lose a rectangle while training."""
    teacher: str | None = None
    """The net whose answers it learns from beside the labels."""
    forms: tuple[Form, ...] = (FP32,)
    """The variants worth building: each more accurate one is slower, on the held-out split."""


NETS: Mapping[str, NetPlan] = MappingProxyType(
    {
        "resnet-32": NetPlan(
            make=lambda: ResidualNet(32),
            design="residual, widths 32/64/128",
            cycles=(20, 6, 6),
            peak_rate=0.2,
            weight_decay=5e-4,
            bfloat16=True,
            erased=0.5,
            forms=(COMMITTEE, INT8_MIRRORED, INT8, INT8_W4),
        ),
        "resnet-32x1": NetPlan(
            make=lambda: ResidualNet(32, blocks=1),
            design="residual, widths 32/64/128, one block a stage",
            cycles=(20,),
            peak_rate=0.2,
            weight_decay=2e-4,
            bfloat16=True,
            erased=0.25,
            teacher="resnet-32",
            forms=(INT8_MIRRORED, INT8),
        ),
        "dsconv-64": NetPlan(
            make=lambda: SeparableNet(64),
            design="separable, widths 64/128/256",
            cycles=(20,),
            peak_rate=0.2,
            weight_decay=2e-4,
            bfloat16=False,
            forms=(INT8,),
        ),
        "dsconv-32": NetPlan(
            make=lambda: SeparableNet(32),
            design="separable, widths 32/64/128",
            cycles=(24,),
            peak_rate=0.2,
            weight_decay=1e-4,
            bfloat16=False,
        ),
        "dsconv-16": NetPlan(
            make=lambda: SeparableNet(16),
            design="separable, widths 16/32/64",
            cycles=(30,),
            peak_rate=0.2,
            weight_decay=5e-5,
            bfloat16=False,
        ),
    }
)
"""Nets by name, the largest first."""
