"""What the students are built of."""
# mypy: allow-subclassing-any
# Where the types are checked PyTorch is not installed: its classes are unknown there.

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Inputs = Mapping[str, Tensor]
"""A batch: one tensor a model input, [rows, ...]."""


class Student(nn.Module):
    """A network that reads the original's inputs as they are and answers with logits.

    Whatever it needs to know about the numbers, such as their mean, it was told when it was made.
    """

    def forward(self, inputs: Inputs) -> Tensor:
        """A batch of the original's inputs -> [rows, classes] logits."""
        raise NotImplementedError

    def merge(self) -> None:
        """Move into the first weights what can be of the arithmetic before them: for export, never trained after."""


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch normalisation; size-preserving at stride 1.

    The two are one convolution once exported.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out),
        )


class SqueezeExcite(nn.Module):
    """Weighs channels by what the whole image shows (Hu et al., "Squeeze-and-Excitation Networks", 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[n, channels, h, w] -> the same shape."""
        seen = features.mean(dim=(2, 3), keepdim=True)
        return features * nn.functional.hardsigmoid(self.excite(torch.relu(self.squeeze(seen))))


class Attention(nn.Module):
    """Self-attention (Vaswani et al., 2017), spelled out: what fuses attention in ONNX graphs knows this form."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, penalty: Tensor | None) -> Tensor:
        """[n, length, width] and what is added to each key's score, [n, 1, 1, length] -> [n, length, width]."""
        rows, length, width = tokens.shape
        query, key, value = (
            part(tokens).reshape(rows, length, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / (width // self.heads) ** 0.5
        weights = torch.softmax(scores if penalty is None else scores + penalty, dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(rows, length, width))
