"""When requests arrive: seeded processes of a given rate, steady or changing, and recorded traces.

A process of unit rate is drawn in its own time and carried to seconds by the inverse of the cumulative rate
(Lewis and Shedler, 1979; for gamma gaps Gerhardt and Nelson, 2009). The rate is linear in pieces, so the inverse
is exact: nothing is thinned away, and a change of the rate moves arrivals without drawing others.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK = 8192
"""Gaps drawn at once. A constant: what is drawn must not depend on how far somebody reads."""


class TraceError(ValueError):
    """A trace that cannot be replayed; the message names file and line, and what was expected."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which the rate goes in a straight line from `start` to `end` times the base rate."""

    duration_s: float
    start: float
    end: float


def poisson(rate: float, rng: np.random.Generator, phases: Sequence[Phase] = ()) -> Iterator[float]:
    """Arrival times, seconds from 0, of a Poisson process of `rate` requests/s.

    Endless unless the rate ends at 0: after the last phase it stays as it is then.
    """
    return _arrivals(rng.standard_exponential, _RateCurve(rate, phases))


def gamma(rate: float, cv2: float, rng: np.random.Generator, phases: Sequence[Phase] = ()) -> Iterator[float]:
    """As `poisson`, with gamma-distributed gaps of squared coefficient of variation `cv2`: above 1 it is bursty.

    The process is stationary from its first moment: time 0 falls into a gap as a passer-by would meet it, which is
    a long one more often than not. To begin with a whole gap would give (cv2 - 1) / 2 arrivals too many.
    """
    if not 0 < cv2 < inf:
        raise ValueError(f"cv2 must be above 0 and finite, not {cv2:g}")
    shape = 1 / cv2

    def gaps(count: int) -> NDArray[np.float64]:
        return rng.gamma(shape, cv2, count)

    # The gap met at a random moment is gamma with one more in the shape; what is left of it is uniform.
    return _arrivals(gaps, _RateCurve(rate, phases), first=float(rng.random() * rng.gamma(shape + 1, cv2)))


def trace(file: Path, compression: float = 1.0, column: str | None = None) -> Iterator[float]:
    """Arrival times of a recorded trace, from 0 at its first line, `compression` times as fast.

    Raises `TraceError` at once, not on the way.
    """
    if not 0 < compression < inf:
        raise ValueError(f"compression must be above 0 and finite, not {compression:g}")
    return (at_s / compression for at_s in read_trace(file, column))


def read_trace(file: Path, column: str | None = None) -> list[float]:
    """Seconds since the first timestamp of a CSV file, never falling.

    Timestamps stand in `column` (default: the first), as seconds or as ISO dates with times; without `column`, the
    first line may be data or names. Raises `TraceError` naming the line and the value that is wrong.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return _Trace(file, column).read(csv.reader(lines))
    except OSError as error:
        raise TraceError(f"trace {file}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"trace {file}: not a CSV file in UTF-8: {error}") from error


class _RateCurve:
    """Arrivals expected until a time, and back: linear pieces of rate, the last one for ever."""

    def __init__(self, rate: float, phases: Sequence[Phase]) -> None:
        if not 0 < rate < inf:
            raise ValueError(f"rate must be above 0 and finite, not {rate:g}")
        for phase in phases:
            if not (0 < phase.duration_s < inf and 0 <= phase.start < inf and 0 <= phase.end < inf):
                raise ValueError(f"a phase needs a duration above 0 and factors of 0 or more: {phase}")
        lengths = np.array([phase.duration_s for phase in phases])
        first = np.array([phase.start for phase in phases]) * rate
        last = np.array([phase.end for phase in phases]) * rate
        final = last[-1] if phases else rate
        self._begin_s = np.concatenate([[0.0], np.cumsum(lengths)])
        self._length_s = np.append(lengths, inf)
        self._rate = np.append(first, final)
        self._slope = np.append((last - first) / lengths, 0.0)
        self._count = np.concatenate([[0.0], np.cumsum((first + last) / 2 * lengths)])
        self._most = inf if final > 0 else self._count[-1]

    def times(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """When the expected arrivals reach each of `counts` (rising); counts that are never reached are left out."""
        counts = counts[counts < self._most]
        # To the right: a piece without arrivals is skipped, and so nothing is divided by its rate of 0.
        piece = np.searchsorted(self._count, counts, side="right") - 1
        rate, slope, past = self._rate[piece], self._slope[piece], counts - self._count[piece]
        # rate x + slope x^2 / 2 = past, solved in the form that loses no digits when the slope is small.
        divisor = rate + np.sqrt(np.maximum(rate * rate + 2 * slope * past, 0.0))
        into_s = np.divide(2 * past, divisor, out=np.zeros_like(past), where=divisor > 0)
        times: NDArray[np.float64] = self._begin_s[piece] + np.minimum(into_s, self._length_s[piece])
        return times


def _arrivals(
    gaps: Callable[[int], NDArray[np.float64]], curve: _RateCurve, first: float | None = None
) -> Iterator[float]:
    """The renewal process of unit rate with these gaps, carried to the time of `curve`."""
    reached = 0.0
    while True:
        drawn = gaps(CHUNK)
        if first is not None:
            drawn[0], first = first, None
        counts = reached + np.cumsum(drawn)
        times = curve.times(counts)
        yield from times.tolist()
        if len(times) < len(counts):
            return
        reached = counts[-1]


class _Trace:
    """Reads one file, line by line; knows what to say about the line at hand."""

    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file
        self._column = column
        self._seconds: Callable[[str], float] | None = None
        self._line = 0

    def read(self, reader: Iterator[list[str]]) -> list[float]:
        at = self._place(next(reader, [])) if self._column is not None else 0
        self._line = 1 if self._column is not None else 0
        seen: list[float] = []
        text = ""
        for cells in reader:
            self._line += 1
            if not cells:
                continue
            if len(cells) <= at:
                raise self._wrong(f"{len(cells)} cells, but the timestamp is cell {at + 1}")
            before, text = text, cells[at]
            if self._seconds is None and not self._learn(text):
                continue  # the names of the columns
            at_s = self._parse(text)
            if seen and at_s < seen[-1]:
                raise self._wrong(f"'{text}' is earlier than '{before}' before it; sort the file by time")
            seen.append(at_s)
        if not seen:
            raise TraceError(f"trace {self._file}: holds no timestamps")
        return [at_s - seen[0] for at_s in seen]

    def _place(self, names: list[str]) -> int:
        stripped = [name.strip() for name in names]
        if self._column not in stripped:
            raise TraceError(
                f"trace {self._file}: there is no column '{self._column}'; there are: {', '.join(stripped) or 'none'}"
            )
        return stripped.index(self._column)

    def _learn(self, text: str) -> bool:
        """Take the format from the first timestamp; False when this is a line of names instead."""
        for seconds in (_number, _moment):
            try:
                seconds(text)
            except ValueError:
                continue
            self._seconds = seconds
            return True
        if self._line > 1 or self._column is not None:
            raise self._wrong(f"'{text}' is neither a number of seconds nor an ISO date with time")
        return False

    def _parse(self, text: str) -> float:
        if self._seconds is None:
            raise RuntimeError("a timestamp is read after its format is known")
        try:
            return self._seconds(text)
        except ValueError:
            expected = "a number of seconds" if self._seconds is _number else "an ISO date with time"
            raise self._wrong(f"'{text}' is not {expected}, as the first timestamp is") from None

    def _wrong(self, what: str) -> TraceError:
        return TraceError(f"trace {self._file}: line {self._line}: {what}")


def _number(text: str) -> float:
    seconds = float(text)
    if not isfinite(seconds):
        raise ValueError(text)
    return seconds


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text.strip())
    # Only differences count: a time without a zone may as well be UTC.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
