"""Which channels of a graph can be taken out, what each costs, and the graph without them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from models.compress.cost import products, shapes
from models.compress.errors import Inapplicable
from models.compress.graph import weights, with_weights
from models.compress.mending import Lengths, mended
from models.compress.tie_rules import tied
from models.compress.ties import FROZEN

ROWS = 2
"""Rows that shapes are looked at with: with one, the batch axis would vanish in reshapes."""
OTHER_LENGTH = 24
"""What free lengths are the second time, so that what depends on them shows."""
Kept = Mapping[str, NDArray[np.intp]]
"""For groups by name the numbers of the channels that stay; of groups left out all stay."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a group's channels lie in an initializer."""

    weight: str
    axis: int
    positions: NDArray[np.intp]
    """[channels, elements of each]: one for a plain channel, more for a head or behind a flattening."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that lie in the same weights: any may go, each as a whole."""

    name: str
    """The first weight that makes them, and the axis."""
    places: tuple[Place, ...]
    multiply_adds: int
    """What one channel costs for one row, while all others are there."""
    bytes: int
    """What one channel weighs, in the same way."""

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(self.places[0].positions)

    @property
    def block(self) -> int:
        """Elements of the narrowest place that a channel has: 1, or a head's width."""
        return min(int(place.positions.shape[1]) for place in self.places)


@dataclass(frozen=True, slots=True)
class _Term:
    """A product of lengths: `constant` times, for each factor, `fixed` plus so much a channel of some groups."""

    constant: int
    factors: tuple[tuple[int, tuple[tuple[str, int], ...]], ...]

    @property
    def groups(self) -> frozenset[str]:
        return frozenset(group for _, shares in self.factors for group, _ in shares)

    def at(self, widths: Mapping[str, int]) -> int:
        result = self.constant
        for fixed, shares in self.factors:
            result *= fixed + sum(each * widths[group] for group, each in shares)
        return result


class ChannelGraph:
    """A graph and its groups of channels. Raises `Inapplicable` for a graph that does not run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._constants = weights(model)
        self._shapes = shapes(model, ROWS)
        others = shapes(model, ROWS + 1, OTHER_LENGTH)
        self._free = {
            name: frozenset(axis for axis, size in enumerate(shape) if size != others[name][axis])
            for name, shape in self._shapes.items()
            if len(shape) == len(others[name])
        }
        self._ties = tied(model, self._shapes, self._constants)
        # Rows are no channels, even where nothing else says so; rows times heads may be.
        for name, axes in self._free.items():
            self._ties.freeze(*(self._ties.axis(name, axis) for axis in axes if self._shapes[name][axis] == ROWS))
        floats = [name for name, array in self._constants.items() if array.dtype.kind == "f" and array.ndim]
        own = [elements for name in floats for elements in self._ties.axes(name)]
        self._roots = self._ties.roots(np.concatenate(own) if own else np.empty(0, np.int64))
        self._group_of: dict[int, str] = {}
        """The group of a root."""
        self._channel_of: dict[int, int] = {}
        """The number of a root in its group."""
        places = self._places(floats)
        self._sizes = {name: len(where[0].positions) for name, where in places.items()}
        self._terms = [self._term(axes) for node in model.graph.node for axes in products(node, self._shapes)]
        self.groups = self._weighed(places, floats)

    def multiply_adds(self, widths: Mapping[str, int]) -> int:
        """Multiply-adds for one row when groups have so many channels left; all must be named."""
        return sum(term.at(widths) for term in self._terms) // ROWS

    def saved(self, widths: Mapping[str, int], group: str, fewer: int) -> int:
        """Multiply-adds for one row that go when one of the groups is narrowed."""
        narrower = {**widths, group: fewer}
        return sum(term.at(widths) - term.at(narrower) for term in self._terms if group in term.groups) // ROWS

    def widths(self) -> dict[str, int]:
        """The groups' sizes as they are."""
        return dict(self._sizes)

    def removed(self, kept: Kept) -> onnx.ModelProto:
        """The model with those channels only. Raises `Inapplicable` when the result does not run."""
        gone = self._gone(kept)
        lengths = {
            name: tuple(int(np.count_nonzero(~gone[elements])) for elements in self._ties.axes(name))
            for name in self._shapes
        }
        model = with_weights(self.model, self._sliced(gone))
        mended(model, Lengths(self._shapes, lengths, self._free, self._constants))
        seen = shapes(model, ROWS)
        for name, expected in lengths.items():
            if seen.get(name, expected) != expected:
                raise Inapplicable(f"taking channels out gives '{name}' the shape {seen[name]} instead of {expected}")
        return model

    def _places(self, floats: Iterable[str]) -> dict[str, tuple[Place, ...]]:
        """The groups: channels with the same number of elements in the same axes of weights."""
        found: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
        for name in floats:
            for axis in range(self._constants[name].ndim):
                along = self._roots[self._ties.axis(name, axis)]
                for position in np.flatnonzero(along != FROZEN):
                    found[int(along[position])][name, axis].append(int(position))
        alike: dict[tuple[tuple[str, int, int], ...], list[int]] = defaultdict(list)
        for root, where in found.items():
            alike[tuple((name, axis, len(positions)) for (name, axis), positions in where.items())].append(root)
        groups = {}
        for signature, roots in alike.items():
            if len(roots) < 2:
                continue
            name = f"{signature[0][0]}:{signature[0][1]}"
            while name in groups:
                name += "'"
            for channel, root in enumerate(roots):
                self._group_of[root], self._channel_of[root] = name, channel
            groups[name] = tuple(
                Place(weight, axis, np.array([found[root][weight, axis] for root in roots]))
                for weight, axis, _count in signature
            )
        return groups

    def _weighed(self, groups: Mapping[str, tuple[Place, ...]], floats: Iterable[str]) -> tuple[ChannelGroup, ...]:
        arrays = {name: self._constants[name] for name in floats}
        weight_terms = [
            self._term([(name, axis) for axis in range(array.ndim)], array.dtype.itemsize)
            for name, array in arrays.items()
        ]
        result = []
        for name, places in groups.items():
            fewer = self._sizes | {name: self._sizes[name] - 1}
            size = sum(term.at(self._sizes) - term.at(fewer) for term in weight_terms)
            result.append(ChannelGroup(name, places, self.saved(self._sizes, name, fewer[name]), size))
        return tuple(result)

    def _term(self, axes: Iterable[tuple[str, int]], constant: int = 1) -> _Term:
        factors = []
        for name, axis in axes:
            elements = self._ties.axis(name, axis)
            shares: dict[str, int] = defaultdict(int)
            for root in self._roots[elements].tolist():
                if root in self._group_of:
                    shares[self._group_of[root]] += 1
            if shares:
                each = tuple((group, count // self._sizes[group]) for group, count in shares.items())
                factors.append((len(elements) - sum(shares.values()), each))
            else:
                constant *= len(elements)
        return _Term(constant, tuple(factors))

    def _gone(self, kept: Kept) -> NDArray[np.bool_]:
        """For each element whether it is taken out."""
        unknown = set(kept) - set(self._group_of.values())
        if unknown:
            raise ValueError(f"no such groups of channels: {', '.join(sorted(unknown))}")
        staying = {name: set(np.asarray(channels).tolist()) for name, channels in kept.items()}
        roots = [
            root
            for root, name in self._group_of.items()
            if name in staying and self._channel_of[root] not in staying[name]
        ]
        return np.isin(self._roots, np.array(roots, np.int64))

    def _sliced(self, gone: NDArray[np.bool_]) -> dict[str, NDArray[np.generic]]:
        result = {}
        for name, array in self._constants.items():
            stays = [~gone[elements] for elements in self._ties.axes(name)] if name in self._shapes else []
            if not all(axis.all() for axis in stays):
                result[name] = array[np.ix_(*stays)]
        return result
