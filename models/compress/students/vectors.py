"""Students for vectors: perceptrons of one or more hidden layers."""
# mypy: allow-subclassing-any
# Where the types are checked PyTorch is not installed: its classes are unknown there.

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.compress.students.inputs import Vectors
from models.compress.students.layers import Inputs, Student


class VectorStudent(Student):
    """Standardised numbers through `depth` hidden layers of `width`; no layer at depth 0: logistic regression."""

    scale: Tensor | None

    def __init__(self, vectors: Vectors, classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.register_buffer("mean", torch.from_numpy(vectors.mean))
        self.register_buffer("scale", torch.from_numpy(1.0 / vectors.deviation))
        sizes = (vectors.length, *(width for _ in range(depth)))
        hidden = (layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU()))
        self.body = nn.Sequential(*hidden, nn.Linear(sizes[-1], classes))

    def forward(self, inputs: Inputs) -> Tensor:
        """The original's inputs, in their order -> [rows, classes] logits."""
        flat = [inputs[name].to(torch.float32).flatten(1) for name in self.vectors.names]
        numbers = flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
        return self.body(numbers if self.scale is None else (numbers - self.mean) * self.scale)

    def merge(self) -> None:
        """Standardise the first layer's weights in place of the numbers."""
        first = self.body[0]
        with torch.no_grad():
            first.weight.mul_(self.scale)
            first.bias.sub_(first.weight @ self.mean)
        self.scale = None
