"""Students for tokens: a bag of embeddings, the cheapest there is, and a small transformer."""
# mypy: allow-subclassing-any
# Where the types are checked PyTorch is not installed: its classes are unknown there.

import torch
from torch import Tensor, nn

from models.compress.students.inputs import Tokens
from models.compress.students.layers import Attention, Inputs, Student

HEAD_WIDTH = 16
"""Numbers a head of attention looks at."""
FAR = -1e4
"""Added to the score of padding: nothing is left of it, and float16 still holds it."""


class Embedding(nn.Module):
    """Words, stretched and moved by their places. Places beyond the longest row seen are taken for the last."""

    def __init__(self, tokens: Tokens, width: int) -> None:
        super().__init__()
        self.vocabulary, self.length = tokens.vocabulary, tokens.length
        self.words = nn.Embedding(tokens.vocabulary, width)
        self.stretch = nn.Parameter(1.0 + 0.5 * torch.randn(tokens.length, width))
        self.move = nn.Parameter(0.1 * torch.randn(tokens.length, width))

    def forward(self, ids: Tensor) -> Tensor:
        """[n, length] ids -> [n, length, width]; an id that was never seen is taken for the last."""
        places = torch.arange(ids.shape[1]).clamp(max=self.length - 1)
        words = self.words(ids.to(torch.int64).clamp(0, self.vocabulary - 1))
        return words * self.stretch[places] + self.move[places]


class Layer(nn.Module):
    """A transformer layer that normalises first (Xiong et al., 2020), which trains without a long warm-up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, max(1, width // HEAD_WIDTH))
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, words: Tensor, penalty: Tensor | None) -> Tensor:
        """[n, length, width] -> the same shape."""
        words = words + self.attention(self.attention_norm(words), penalty)
        return words + self.feed(self.feed_norm(words))


class TokenStudent(Student):
    """Embedded words, `depth` transformer layers, the mean over what is no padding, and a head.

    Without layers it is a bag of words with one hidden layer (Iyyer et al., "Deep Unordered Composition
    Rivals Syntactic Methods", 2015).
    """

    def __init__(self, tokens: Tokens, classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.embedding = Embedding(tokens, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        if depth:
            self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        else:
            self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, classes))

    def forward(self, inputs: Inputs) -> Tensor:
        """Ids, and a mask if there is one, [n, length] each -> [rows, classes] logits."""
        ids = inputs[self.tokens.name]
        counts = self._counts(inputs)
        penalty = None if counts is None else (1.0 - counts)[:, None, None, :] * FAR
        words = self.embedding(ids)
        if not self.layers:
            # Without it the mean would be linear in what stands where: no two words could mean more than each.
            words = torch.relu(words)
        for layer in self.layers:
            words = layer(words, penalty)
        if counts is None:
            return self.head(words.mean(dim=1))
        total = (words * counts[:, :, None]).sum(dim=1)
        return self.head(total / counts.sum(dim=1, keepdim=True).clamp(min=1.0))

    def _counts(self, inputs: Inputs) -> Tensor | None:
        """1 where a token counts and 0 where it is padding, [n, length]; None where all count."""
        if self.tokens.mask is not None:
            return inputs[self.tokens.mask].to(torch.float32)
        return (inputs[self.tokens.name] != 0).to(torch.float32) if self.tokens.padded else None
