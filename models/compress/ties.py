"""Which elements of which axes stand or fall together, as the operators of a graph tie them.

Every element of every axis of every tensor is an *element*, known by a number. An operator ties elements: output
channel 3 of a convolution, row 3 of its weight and element 3 of its bias go together, and so do all that
are reached from there. Element by element is finer than axis by axis, and simpler: joining, splitting, groups,
flattening and heads need no offsets and no special cases. What no rule understands is frozen, like the graph's
inputs and outputs. DepGraph (Fang et al., 2023) asks the same of PyTorch modules, layer by layer.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from models.compress.cost import Shape

Elements = NDArray[np.int64]
"""Numbers of elements."""

FROZEN = 0
"""The element that what must stay is tied to."""
LARGEST_BLOCK = 1 << 20
"""Elements up to which a reshape is looked at; a larger one is frozen."""


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """One way to see a reshape: an axis before and an axis after carry the channels, all others stay."""

    before: int
    after: int
    pairs: NDArray[np.int64]
    """Places on the two axes that are tied, [2, n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Neighbouring axes that a reshape turns into others of the same number of elements."""

    before: tuple[Elements, ...]
    after: tuple[Elements, ...]

    @property
    def pattern(self) -> tuple[Shape, Shape]:
        """The lengths: blocks of equal ones are seen the same way."""
        return tuple(map(len, self.before)), tuple(map(len, self.after))


@dataclass(slots=True, eq=False)
class Ties:
    """The elements of a graph's tensors and what is tied so far."""

    shapes: Mapping[str, Shape]
    constants: Mapping[str, NDArray[np.generic]]
    opset: int
    blocks: list[Block] = field(default_factory=list)
    """Reshapes that can be seen in more than one way."""
    count: int = 1
    _first: dict[str, int] = field(default_factory=dict)
    _pairs: list[tuple[Elements, Elements]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, shape in self.shapes.items():
            self._first[name] = self.count
            self.count += sum(shape)

    def axis(self, name: str, axis: int) -> Elements:
        """The elements of an axis."""
        shape = self.shapes[name]
        axis %= len(shape)
        first = self._first[name] + sum(shape[:axis])
        return np.arange(first, first + shape[axis])

    def axes(self, name: str) -> list[Elements]:
        """The elements of all axes, in order."""
        return [self.axis(name, axis) for axis in range(len(self.shapes[name]))]

    def tie(self, some: Elements, others: Elements) -> None:
        """Element by element; one element may be tied to many."""
        self._pairs.append((some.ravel(), np.broadcast_to(others, some.shape).ravel()))

    def freeze(self, *elements: Elements) -> None:
        """What must stay."""
        for some in elements:
            self.tie(some, np.array([FROZEN]))

    def freeze_tensors(self, names: Iterable[str]) -> None:
        """All axes of those tensors that have a shape."""
        for name in names:
            if name in self.shapes:
                self.freeze(*self.axes(name))

    def reshape(self, before: str, after: str) -> None:
        """The same elements in the same order under other axes."""
        for old, new in _aligned(self.axes(before), self.axes(after)):
            if len(old) == len(new) == 1:
                self.tie(old[0], new[0])
            else:
                self.blocks.append(Block(old, new))

    def constant(self, name: str) -> list[int] | None:
        """The values of a constant of whole numbers; None where it is computed."""
        return self.constants[name].reshape(-1).astype(int).tolist() if name in self.constants else None

    def roots(self, weights: Elements) -> Elements:
        """For every element the smallest one it is tied to, itself or `FROZEN` among them.

        Reshapes are seen in the way that leaves the most elements of `weights` free; of equals the first, which
        takes whole heads before parts of all heads. Found by turns: each pattern in the light of the others.
        """
        patterns: dict[tuple[Shape, Shape], list[Block]] = defaultdict(list)
        for block in self.blocks:
            patterns[block.pattern].append(block)
        base = _components(self.count, self._pairs)
        ways = {pattern: _ways(pattern, blocks, base) for pattern, blocks in patterns.items()}
        seen: dict[tuple[Shape, Shape], Coupling | None] = {
            pattern: choices[0] if choices else None for pattern, choices in ways.items()
        }

        def rooted() -> Elements:
            return _components(
                self.count,
                [(np.arange(self.count), base), *(p for k, v in seen.items() for p in _tied(patterns[k], v))],
            )

        def free() -> int:
            return int(np.count_nonzero(rooted()[weights] != FROZEN))

        for _turn in range(2):
            for pattern, choices in ways.items():
                if len(choices) > 1:
                    scores = []
                    for choice in choices:
                        seen[pattern] = choice
                        scores.append(free())
                    seen[pattern] = choices[int(np.argmax(scores))]
        return rooted()


def _aligned(before: list[Elements], after: list[Elements]) -> list[tuple[tuple[Elements, ...], tuple[Elements, ...]]]:
    """Cut two lists of axes into the shortest blocks of equal products; axes of length 1 are left out."""
    old, new = ([axis for axis in axes if len(axis) != 1] for axes in (before, after))
    blocks = []
    at = place = 0
    while at < len(old) and place < len(new):
        start, begin = at, place
        left, right = len(old[at]), len(new[place])
        at, place = at + 1, place + 1
        while left != right:
            if left < right:
                left *= len(old[at])
                at += 1
            else:
                right *= len(new[place])
                place += 1
        blocks.append((tuple(old[start:at]), tuple(new[begin:place])))
    return blocks


def _ways(pattern: tuple[Shape, Shape], blocks: list[Block], base: Elements) -> list[Coupling]:
    """Couplings whose two axes are not frozen whatever the reshapes are seen as."""
    return [
        way
        for way in _couplings(*pattern)
        if any(
            (base[b.before[way.before]] != FROZEN).all() and (base[b.after[way.after]] != FROZEN).all() for b in blocks
        )
    ]


def _couplings(before: Shape, after: Shape) -> tuple[Coupling, ...]:
    """All couplings of two lists of lengths that leave more than one part."""
    total = int(np.prod(before))
    if total > LARGEST_BLOCK:
        return ()
    places = np.arange(total)
    old, new = np.unravel_index(places, before), np.unravel_index(places, after)
    found = []
    for b in range(len(before)):
        for a in range(len(after)):
            pairs = np.unique(np.stack([old[b], new[a]]), axis=1)
            nodes = before[b] + after[a]
            if len(np.unique(_components(nodes, [(pairs[0], pairs[1] + before[b])]))) > 1:
                found.append(Coupling(b, a, pairs))
    return tuple(found)


def _tied(blocks: list[Block], way: Coupling | None) -> list[tuple[Elements, Elements]]:
    """The ties of blocks seen in that way; all are frozen where there is none."""
    pairs = []
    for block in blocks:
        for axes, carrier in ((block.before, way and way.before), (block.after, way and way.after)):
            pairs += [(axis, np.full_like(axis, FROZEN)) for place, axis in enumerate(axes) if place != carrier]
        if way is not None:
            pairs.append((block.before[way.before][way.pairs[0]], block.after[way.after][way.pairs[1]]))
    return pairs


def _components(count: int, pairs: list[tuple[Elements, Elements]]) -> Elements:
    """For each of `count` elements the smallest it is connected with."""
    some = np.concatenate([pair[0] for pair in pairs]) if pairs else np.empty(0, np.int64)
    others = np.concatenate([pair[1] for pair in pairs]) if pairs else np.empty(0, np.int64)
    graph = coo_array((np.ones(len(some), np.int32), (some, others)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, smallest = np.unique(labels, return_index=True)
    roots: Elements = smallest[labels].astype(np.int64)
    return roots
