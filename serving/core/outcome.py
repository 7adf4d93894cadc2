"""The only definitions of how requests end, and of what is made of it."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Exactly one for each request."""

    MET = "met"
    """Answered within the deadline."""
    LATE = "late"
    """Answered after it."""
    REJECTED = "rejected"
    """Refused at the door because of load."""
    EXPIRED = "expired"
    """Dropped from the queue because the deadline could no longer be met."""
    CANCELLED = "cancelled"
    """The caller went away."""
    FAILED = "failed"
    """No answer because something broke, or the model could not process the input."""


@dataclass(slots=True)
class Account:
    """What came of all requests so far; rows count, not requests."""

    arrived: int = 0
    met: int = 0
    accuracy_sum: float = 0.0

    def add(self, outcome: Outcome, rows: int, accuracy: float) -> None:
        """Count `rows` rows that ended as `outcome`, answered by a variant of that accuracy."""
        self.arrived += rows
        if outcome is Outcome.MET:
            self.met += rows
            self.accuracy_sum += rows * accuracy

    @property
    def attainment(self) -> float:
        """Share of all rows answered within their deadlines; 1 before the first."""
        return self.met / self.arrived if self.arrived else 1.0

    @property
    def effective_accuracy(self) -> float:
        """Mean accuracy over *all* rows, where one not answered in time counts 0 (Model-Switching, HotCloud'20)."""
        return self.accuracy_sum / self.arrived if self.arrived else 0.0
