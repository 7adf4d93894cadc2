"""Virtual time for greenlets: whoever sleeps is woken in order, as soon as nobody has anything to do."""

from heapq import heappop, heappush
from itertools import count

import gevent
from gevent.event import Event


class VirtualTime:
    """A `Timebase` whose seconds take no time."""

    def __init__(self):
        self.now = 0.0
        self._sleepers = []
        self._serial = count()
        self._driver = None

    def now_s(self):
        return self.now

    def sleep(self, seconds):
        if self._driver is None or self._driver.dead:
            self._driver = gevent.spawn(self._drive)
        woken = Event()
        heappush(self._sleepers, (self.now + max(seconds, 0.0), next(self._serial), woken))
        woken.wait()

    def _drive(self):
        while True:
            gevent.idle()
            if not self._sleepers:
                return
            at_s, _, woken = heappop(self._sleepers)
            self.now = max(self.now, at_s)
            woken.set()
