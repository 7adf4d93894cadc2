"""The networks of the text family, in PyTorch: logits for 32 languages from character numbers.

`NgramNet` is the fast one: a mean of vectors of hashed character n-grams (Joulin et al., "Bag of Tricks for
Efficient Text Classification", 2016). `CharacterTransformer` is the accurate one: layers of self-attention (Vaswani
et al., "Attention Is All You Need", 2017), normalised before each half layer, over characters that also know the
n-grams they end, which are hashed into tables (Clark et al., "CANINE", 2021).

Both ignore padding: number 0, always behind the text. An answer is the same however far a text is filled up.
"""
# mypy: allow-subclassing-any
# Where the types are checked PyTorch is not installed: its classes are unknown there.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.zoo.text.data import LANGUAGES
from models.zoo.text.tokens import CHARACTERS, PADDING

LENGTH = 64
"""Most characters of a text: the largest bucket."""
MULTIPLIERS = (1_009, 2_003, 4_001, 8_009)
"""Of the earlier characters in the hash of an n-gram: primes, and apart, so that their order tells."""

SMALL = 0.02
"""Deviation of the vectors at first: an n-gram that training never showed says next to nothing."""


class NgramTable(nn.Module):
    """Vectors of characters and of the hashed n-grams that end at each, up to `order` characters, in one table.

    Its first row, padding, is zero and stays zero.
    """

    def __init__(self, order: int, buckets: int, width: int) -> None:
        super().__init__()
        self.order, self.buckets = order, buckets
        self.table = nn.Embedding(CHARACTERS + (order - 1) * buckets, width, padding_idx=PADDING)
        with torch.no_grad():
            self.table.weight.mul_(SMALL)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [n, length] -> a vector for each n-gram at each character [n, order, length, width]."""
        codes, known, code = [ids], ids != PADDING, ids
        for behind in range(1, self.order):
            earlier = functional.pad(ids, (behind, 0))[:, : ids.shape[1]]
            code = code + earlier * MULTIPLIERS[behind - 1]
            place = CHARACTERS + (behind - 1) * self.buckets + code % self.buckets
            codes.append(torch.where(known, place, PADDING))
        return self.table(torch.stack(codes, dim=1))


class NgramNet(nn.Module):
    """The mean vector of all n-grams of a text, and one layer from it."""

    def __init__(self, order: int, buckets: int, width: int) -> None:
        super().__init__()
        self.ngrams = NgramTable(order, buckets, width)
        self.head = nn.Linear(width, len(LANGUAGES))

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [n, length] -> logits [n, 32]."""
        lengths = (ids != PADDING).sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)
        return self.head(self.ngrams(ids).sum(dim=(1, 2)) / lengths)


class AttentionLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.before_attention = nn.LayerNorm(width)
        self.split = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.before_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.1)

    def forward(self, features: Tensor, hidden: Tensor) -> Tensor:
        """[n, length, width] and what to add to scores [n, 1, 1, length] -> [n, length, width]."""
        rows, length, width = features.shape
        parts = self.split(self.before_attention(features)).reshape(rows, length, 3, self.heads, self.head_width)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()
        scores = query @ key.transpose(2, 3) * self.head_width**-0.5 + hidden
        mixed = (torch.softmax(scores, dim=3) @ value).transpose(1, 2).reshape(rows, length, width)
        features = features + self.dropout(self.join(mixed))
        return features + self.dropout(self.perceptron(self.before_perceptron(features)))


class CharacterTransformer(nn.Module):
    """Characters with their n-grams and places, layers of attention, and the mean over the text."""

    def __init__(
        self, width: int, layers: int, heads: int, *, order: int = 5, buckets: int = 8192, table: int = 16
    ) -> None:
        super().__init__()
        self.ngrams = NgramTable(order, buckets, table)
        self.widen = nn.Linear(order * table, width)
        self.places = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.layers = nn.ModuleList(AttentionLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(LANGUAGES))

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [n, length] -> logits [n, 32]."""
        rows, length = ids.shape
        known = ids != PADDING
        # Far below any score, and finite: a text without characters must not end in NaN.
        hidden = torch.where(known, 0.0, -1e4)[:, None, None, :]
        features = self.widen(self.ngrams(ids).transpose(1, 2).reshape(rows, length, -1)) + self.places[:length]
        for layer in self.layers:
            features = layer(features, hidden)
        weights = known.to(torch.float32)[:, :, None]
        mean = (self.norm(features) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return self.head(mean)


class Served(nn.Module):
    """What is exported: one net or a committee of some, and softmax, from character numbers to probabilities.

    A committee answers with the geometric mean of its members' probabilities: nets that were trained from different
    first weights err on different names, and small data are learnt better by several small nets than by a large one.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [n, length] -> probabilities [n, 32]."""
        if len(self.members) == 1:
            return torch.softmax(self.members[0](ids), dim=1)
        logs = [torch.log_softmax(member(ids), dim=1) for member in self.members]
        return torch.softmax(torch.stack(logs).mean(dim=0), dim=1)


@dataclass(frozen=True, slots=True)
class NetPlan:
    """One net and how it is trained and built: settled on the validation part, never on the test part."""

    make: Callable[[], nn.Module]
    design: str
    epochs: int
    peak_rate: float
    """Learning rate of layers at the top of the cycle."""
    table_rate: float = 1e-2
    """The same of the tables of n-grams."""
    weight_decay: float = 0.05
    masked: float = 0.0
    """Share of the characters that are unknown while training: so that no name is known by one rare n-gram."""
    committees: tuple[int, ...] = (1,)
    """How many nets, trained from different first weights, each variant holds."""


NETS: Mapping[str, NetPlan] = MappingProxyType(
    {
        "transformer": NetPlan(
            make=lambda: CharacterTransformer(32, layers=1, heads=2),
            design="1 layer of width 32 over hashed 1- to 5-grams",
            epochs=6,
            peak_rate=3e-3,
            masked=0.05,
            committees=(4, 2),
        ),
        "ngram-5": NetPlan(
            make=lambda: NgramNet(5, 8192, 16),
            design="mean of vectors of width 16 of hashed 1- to 5-grams",
            epochs=8,
            peak_rate=1e-2,
        ),
        "ngram-3": NetPlan(
            make=lambda: NgramNet(3, 8192, 16),
            design="mean of vectors of width 16 of hashed 1- to 3-grams",
            epochs=8,
            peak_rate=1e-2,
        ),
        "ngram-2": NetPlan(
            make=lambda: NgramNet(2, 4096, 16),
            design="mean of vectors of width 16 of hashed 1- and 2-grams",
            epochs=8,
            peak_rate=1e-2,
        ),
        "ngram-1": NetPlan(
            make=lambda: NgramNet(1, 0, 16),
            design="mean of vectors of width 16 of characters",
            epochs=8,
            peak_rate=1e-2,
        ),
    }
)
"""Nets by name, the largest first.

Larger transformers are left out: two layers of width 64 and four of 96 were no more accurate on the validation part
(0.885 and 0.893, against 0.896), and four of the small ones together are (0.908), in less time. One of the small ones
alone is left out too: it is hardly more accurate than the 5-grams.
"""
