"""One unit of work as the scheduler knows it."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal["most_accurate", "budget", "load", "pinned", "prefer_latency", "prefer_energy", "unavailable"]
"""Why a variant answered: nothing stood against the most accurate; the budget rules out a more accurate one;
load made a smaller one the better choice; the caller named it; the caller wanted the fastest, or the most frugal;
the endpoint of a more accurate one does not answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Eligibility:
    """The variants one request's budget allows (at least one), by index: those that run here before those that run
    elsewhere, and cheapest first. The first one is what is promised.

    Compared by identity, which is quick: whoever makes them keeps one object for each content.
    """

    variants: tuple[int, ...]
    best: int
    """The most accurate of them."""
    reason: Reason
    """Why `best` answers, when it does."""
    mask: int = field(init=False, repr=False)
    """Bit v is set when variant v is allowed: the quickest way to ask."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", sum(1 << variant for variant in self.variants))


@dataclass(slots=True, eq=False)
class Request:
    """A request waiting for a variant and a batch. It is never split.

    Only requests of equal `group` share a batch: their free trailing dimensions agree.
    """

    rows: int
    arrival_s: float
    deadline_s: float
    eligibility: Eligibility
    priority: int = 0
    group: Hashable = None
    size_bytes: int = 0
    payload: Any = field(default=None, repr=False)
    """The shell's own: inputs and the place where the answer goes. The core never looks inside."""
