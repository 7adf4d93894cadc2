"""Students for images: four designs of rising cost a layer, of any width, depth and image size.

- `separable`: each 3 x 3 convolution split into one a channel and one across channels (Howard et al.,
  "MobileNets", 2017).
- `fire`: few channels squeezed, then expanded by 1 x 1 and 3 x 3 side by side (Iandola et al., "SqueezeNet",
  2016), with its simple bypass.
- `efficient`: inverted bottlenecks with squeeze-and-excitation (Tan and Le, "EfficientNet", 2019), with
  hard-swish as its activation (Howard et al., "MobileNetV3", 2019), which is cheap on a CPU.
- `residual`: pairs of dense 3 x 3 convolutions (He et al., "Deep Residual Learning", 2015).
"""
# mypy: allow-subclassing-any
# Where the types are checked PyTorch is not installed: its classes are unknown there.

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.compress.students.inputs import Images
from models.compress.students.layers import ConvNorm, Inputs, SqueezeExcite, Student

LAST_SIDE = 4
"""Pixels a side that stages halve the image down to, roughly."""
MOST_STAGES = 4
EXPANSION = 4
"""Of an inverted bottleneck."""


class SeparableBlock(nn.Sequential):
    """One 3 x 3 convolution a channel, then one across channels."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(
            ConvNorm(channels_in, channels_in, stride=stride, groups=channels_in),
            nn.ReLU(),
            ConvNorm(channels_in, channels_out, kernel=1),
            nn.ReLU(),
        )


class FireBlock(nn.Module):
    """Squeeze to an eighth of the channels out, expand by both kernels; pooled first where the size halves."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        squeezed = max(4, channels_out // 8)
        self.pool = nn.Identity() if stride == 1 else nn.MaxPool2d(3, stride, 1)
        self.squeeze = ConvNorm(channels_in, squeezed, kernel=1)
        self.narrow = ConvNorm(squeezed, channels_out // 2, kernel=1)
        self.broad = ConvNorm(squeezed, channels_out - channels_out // 2)
        self.bypassed = channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        """[n, channels_in, h, w] -> [n, channels_out, h / stride, w / stride]."""
        pooled = self.pool(features)
        squeezed = torch.relu(self.squeeze(pooled))
        expanded = torch.relu(torch.cat((self.narrow(squeezed), self.broad(squeezed)), dim=1))
        return expanded + pooled if self.bypassed else expanded


class EfficientBlock(nn.Module):
    """Expand, convolve each channel, weigh the channels, project back; beside a shortcut where shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels_in
        self.body = nn.Sequential(
            ConvNorm(channels_in, hidden, kernel=1),
            nn.Hardswish(),
            ConvNorm(hidden, hidden, stride=stride, groups=hidden),
            nn.Hardswish(),
            SqueezeExcite(hidden, max(4, channels_in // 4)),
            ConvNorm(hidden, channels_out, kernel=1),
        )
        self.same_shape = channels_in == channels_out and stride == 1

    def forward(self, features: Tensor) -> Tensor:
        """[n, channels_in, h, w] -> [n, channels_out, h / stride, w / stride]."""
        projected = self.body(features)
        return features + projected if self.same_shape else projected


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
        return torch.relu(self.second(torch.relu(self.first(features))) + self.shortcut(features))


BLOCKS: Mapping[str, Callable[[int, int, int], nn.Module]] = MappingProxyType(
    {"separable": SeparableBlock, "fire": FireBlock, "efficient": EfficientBlock, "residual": ResidualBlock}
)
"""What a stage repeats, by the design's name: channels in, channels out, stride."""


class ImageStudent(Student):
    """A strided stem, stages of `depth` blocks that halve the image and double the channels, and a linear head."""

    scale: Tensor | None

    def __init__(self, images: Images, classes: int, *, block: str, width: int, depth: int) -> None:
        super().__init__()
        self.images = images
        stride = stem_stride(min(images.height, images.width))
        self.register_buffer("mean", torch.from_numpy(images.mean)[:, None, None])
        self.register_buffer("scale", torch.from_numpy(1.0 / images.deviation)[:, None, None])
        self.stem = nn.Sequential(ConvNorm(images.channels, width, max(3, 2 * stride - 1), stride), nn.ReLU())
        channels = width
        layers: list[nn.Module] = []
        for stage in range(stages(min(images.height, images.width))):
            for place in range(depth):
                wider = width * 2**stage
                layers.append(BLOCKS[block](channels, wider, 2 if stage and not place else 1))
                channels = wider
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, inputs: Inputs) -> Tensor:
        """Images as the original takes them -> [rows, classes] logits."""
        pixels = inputs[self.images.name].to(torch.float32)
        if self.images.layout == "nhw":
            pixels = pixels.unsqueeze(1)
        elif self.images.layout == "nhwc":
            pixels = pixels.permute(0, 3, 1, 2)
        centred = pixels - self.mean
        features = self.body(self.stem(centred if self.scale is None else centred * self.scale))
        return self.head(features.mean(dim=(2, 3)))

    def merge(self) -> None:
        """Scale the stem's weights in place of the pixels. The mean stays: the stem's padding stands for it."""
        with torch.no_grad():
            self.stem[0][0].weight.mul_(self.scale)
        self.scale = None


def stem_stride(side: int) -> int:
    """What the stem divides the image's side by: the details of an image of many pixels are not worth their cost."""
    if side < 24:
        return 1
    return 2 if side < 128 else 4


def stages(side: int) -> int:
    """How many stages of rising width an image of that shorter side gets."""
    after_stem = side / stem_stride(side)
    return min(MOST_STAGES, max(2, 1 + math.ceil(math.log2(after_stem / LAST_SIDE))))
