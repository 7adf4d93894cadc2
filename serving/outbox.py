"""Traces that wait to be sent: bounded, sent by a thread of their own, and never longer than a stop may last."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from serving.metrics import Metrics
from serving.tracing import Trace

MAX_WAITING = 1024
"""Traces that wait for the collector, of two or three spans each; more are dropped."""
MAX_BATCH = 256
"""Traces in one message. To make one takes the interpreter about two milliseconds, which requests wait for."""
SEND_EVERY_S = 2.0
FLUSH_WITHIN_S = 2.0
"""What a stop spends on traces that wait: a collector that is gone must not hold up a drain."""

Send = Callable[[Sequence[Trace], threading.Event], int]
"""Sends traces and returns how many of their spans were taken. It tries no longer once the event is set."""

log = logging.getLogger("gearshift.outbox")


class Outbox:
    """Takes traces from the event loop without ever waiting for the collector."""

    def __init__(self, send: Send, metrics: Metrics) -> None:
        self._send = send
        # Two threads count: what is dropped, the one that puts; the rest, the one that sends.
        self._dropped = metrics.counter("gearshift_spans_total", "dropped")
        self._sent = metrics.counter("gearshift_spans_total", "sent")
        self._failed = metrics.counter("gearshift_spans_total", "failed")
        self._waiting: deque[Trace] = deque()
        self._due = threading.Event()
        self._closing = threading.Event()
        self._give_up_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="gearshift-spans", daemon=True)
        self._thread.start()

    def put(self, trace: Trace) -> None:
        """Have a trace sent soon. Dropped when too many wait; to be called by one thread only."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING or self._closing.is_set():
            self._dropped.value += _spans(trace)
            return
        waiting.append(trace)
        if len(waiting) >= MAX_BATCH and not self._due.is_set():
            self._due.set()

    def close(self) -> None:
        """Send what waits, bounded in time. What is left then counts as failed."""
        self._give_up_s = time.monotonic() + FLUSH_WITHIN_S
        self._closing.set()
        self._due.set()
        self._thread.join(FLUSH_WITHIN_S)
        self._failed.value += sum(map(_spans, self._take(MAX_WAITING)))

    def _run(self) -> None:
        while not self._closing.is_set():
            self._due.wait(SEND_EVERY_S)
            self._due.clear()
            self._send_waiting()
        self._send_waiting()  # what came while the last was sent

    def _send_waiting(self) -> None:
        """Send what waits now; what comes meanwhile waits for the next turn, so that messages are full."""
        for _ in range(-(-len(self._waiting) // MAX_BATCH)):
            if time.monotonic() >= self._give_up_s:
                return
            traces = self._take(MAX_BATCH)
            spans = sum(map(_spans, traces))
            taken = 0
            try:
                taken = self._send(traces, self._closing)
            except Exception:
                log.exception("spans could not be sent")
            self._sent.value += taken
            self._failed.value += spans - taken

    def _take(self, most: int) -> list[Trace]:
        # Only this end is taken from, by one thread at a time, but a stop may take what the other gave up.
        taken: list[Trace] = []
        while self._waiting and len(taken) < most:
            taken.append(self._waiting.popleft())
        return taken


def _spans(trace: Trace) -> int:
    return 1 + len(trace.stages)
