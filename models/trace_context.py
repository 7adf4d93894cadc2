"""Whose work this is, for whoever asks others to do part of it."""

from contextvars import ContextVar

TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The `traceparent` (W3C Trace Context) that a call made on behalf of the present batch carries; None for most."""
