"""Lets a few requests through at a time, so that a burst of arrivals cannot hold up answers that are ready."""

import asyncio
from collections import deque
from dataclasses import dataclass

from serving.ports import Clock

TURN_S = 0.003
"""What a turn may take. On a host where 32 entries took three times as long, budgets of forty milliseconds went by in
the wait for a place, and of 18,000 requests from 400 callers who try again at once hardly one was met."""
LEAST = 4
"""Entries of a turn at least: parsing few is no good either."""
NEWEST = 0.2
"""Weight of the last turn in what an entry takes."""


@dataclass(slots=True, eq=False)
class _Place:
    future: asyncio.Future[None]
    arrived_s: float
    give_up_s: float


class Turnstile:
    """At most `width` entries in one turn of the event loop, fewer where it would take longer than `TURN_S`; the rest
    in the turns after it.

    An event loop runs everything that is ready before it looks again. Sixty requests that arrive together
    would all be parsed before one finished batch is answered or one worker gets its next, and each request
    would pay for that twice. With a narrow gate the turns stay short, and workers compute while others are parsed.

    First come, first served, until those who wait have lost half of their time: then the newest goes first,
    who can still be served, and who waited in vain is let through to be told (adaptive LIFO: in an overload
    a fair queue makes everybody late).
    """

    def __init__(self, width: int, clock: Clock) -> None:
        self._most = self._width = width
        self._clock = clock
        self._entry_s = 0.0
        """What a turn takes for each that it lets in, all else that it does included."""
        self._told = 0
        """Let through in this turn to be told that they waited in vain."""
        self._turned_s: float | None = None
        """When the last turn began, if this one follows it."""
        self._left = width
        self._waiting: deque[_Place] = deque()
        self._turning = False

    async def enter(self, give_up_s: float) -> None:
        """Return when it is one's turn, or soon after `give_up_s`, when the wait has been in vain."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        if self._left and not self._waiting:
            self._left -= 1
            return
        place = _Place(loop.create_future(), self._clock(), give_up_s)
        self._waiting.append(place)
        await place.future

    def _turn(self) -> None:
        now_s = self._clock()
        self._fit_width(now_s, self._told + self._width - self._left)
        self._left, self._told = self._width, 0
        for _ in range(self._width):
            if not self._waiting or self._waiting[0].give_up_s > now_s:
                break
            self._told += self._admit(self._waiting.popleft())
        while self._left and self._waiting:
            oldest = self._waiting[0]
            pressed = now_s - oldest.arrived_s > (oldest.give_up_s - oldest.arrived_s) / 2
            self._left -= self._admit(self._waiting.pop() if pressed else self._waiting.popleft())
        self._turning = self._left < self._width
        self._turned_s = now_s if self._turning else None
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)

    def _fit_width(self, now_s: float, entered: int) -> None:
        """Let in as many as a turn has time for, by what the last full ones took: a slow host parses fewer in it.

        What a turn that was not full took says little of an entry: most of it may be a batch.
        """
        if self._turned_s is not None and entered >= self._width:
            took_s = (now_s - self._turned_s) / entered
            self._entry_s += NEWEST * (took_s - self._entry_s)
            self._width = min(self._most, max(LEAST, int(TURN_S / max(self._entry_s, 1e-9))))

    @staticmethod
    def _admit(place: _Place) -> bool:
        """Let one through; False when its caller is gone."""
        if place.future.done():
            return False
        place.future.set_result(None)
        return True
