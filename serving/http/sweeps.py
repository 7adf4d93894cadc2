"""What the limits of both protocols have in common: all are positive, and timeouts are looked for now and then."""

from dataclasses import fields
from typing import Any

LARGEST_INTERVAL_S = 0.5
SWEEPS_PER_TIMEOUT = 4


def require_positive(limits: Any) -> None:
    """Raises `ValueError` for a field of the dataclass that is not above 0."""
    for field in fields(limits):
        if getattr(limits, field.name) <= 0:
            raise ValueError(f"{field.name} must be positive")


def sweep_interval_s(*timeouts_s: float) -> float:
    """How often to look: every 0.5 s, or more often where a timeout is very short."""
    return min(LARGEST_INTERVAL_S, min(timeouts_s) / SWEEPS_PER_TIMEOUT)
