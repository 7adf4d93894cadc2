"""The open-loop sender: every request has its intended moment, and the server's slowness never moves the next one.

A load test that waits for an answer before it sends again goes easy on a server that stalls, and does not notice
("coordinated omission"). Here one greenlet keeps the time and others send; latency counts from the intended send, so
a stall shows in all requests that were due in it. What the sender itself could not do in time is told, never hidden.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from gevent.pool import Pool

from loadtests.answers import CUT, UNSENT, Answer, Attempt
from loadtests.workload import Call

CATCH_UP = 32
"""Sends started in one go when many are due: answers must be read in between."""
NAP_S = 0.5
"""Longest sleep between two looks whether the run was stopped."""
POLL_S = 0.001
"""How often a free sender is looked for when all are taken."""


class Timebase(Protocol):
    """Where the sender takes its time from; tests have their own."""

    def now_s(self) -> float:
        """Monotonic seconds."""

    def sleep(self, seconds: float) -> None:
        """Let others run for that long; 0: only once around."""


class OpenLoop:
    """Sends calls at their times through at most `senders` greenlets."""

    def __init__(
        self, send: Callable[[Call], Answer], note: Callable[[Attempt], None], timebase: Timebase, senders: int
    ) -> None:
        """`send` returns whatever happens; when its greenlet is killed it returns what it could say, too.

        `note` is called exactly once for every call that was due.
        """
        self._send = send
        self._note = note
        self._time = timebase
        self._pool = Pool(senders)
        self._stopped = False
        self._serial = 0
        self._unstarted: dict[int, tuple[Call, float]] = {}
        """Handed to a sender that has not run yet: a greenlet that is killed before it runs can say nothing."""

    def run(self, calls: Iterable[Call], start_s: float) -> None:
        """Send every call at `start_s` + its own time, and wait for the answers.

        Leaving early, by `stop` or because this greenlet is killed, cuts what is on its way.
        """
        try:
            self._keep_time(calls, start_s)
            self._pool.join()
        finally:
            self._pool.kill()
            for call, due_s in self._unstarted.values():
                late_s = self._time.now_s() - due_s
                self._note(Attempt(call, CUT, late_s, late_s))
            self._unstarted.clear()

    def stop(self) -> None:
        """Send nothing more, and do not wait for what is on its way. May be called by `note`."""
        self._stopped = True
        # Not kill: the greenlet that noted the reason is one of them.
        self._pool.kill(block=False)

    def _keep_time(self, calls: Iterable[Call], start_s: float) -> None:
        at_once = 0
        for call in calls:
            due_s = start_s + call.at_s
            at_once += 1
            if self._wait_until(due_s):
                at_once = 0
            elif at_once % CATCH_UP == 0:
                self._time.sleep(0.0)
            if self._stopped:
                return
            if self._free_sender(due_s + call.budget.latency_s):
                self._serial += 1
                self._unstarted[self._serial] = call, due_s
                self._pool.spawn(self._deliver, self._serial)
            elif not self._stopped:
                late_s = self._time.now_s() - due_s
                self._note(Attempt(call, UNSENT, late_s, late_s))

    def _wait_until(self, due_s: float) -> bool:
        """Sleep until then, or until stopped; whether there was anything to wait for."""
        waited = False
        while (wait_s := due_s - self._time.now_s()) > 0 and not self._stopped:
            self._time.sleep(min(wait_s, NAP_S))
            waited = True
        return waited

    def _free_sender(self, until_s: float) -> bool:
        """Wait for one as long as the answer could still be in time; at its end the call is given up."""
        while self._pool.full():
            if self._stopped or self._time.now_s() >= until_s:
                return False
            self._time.sleep(POLL_S)
        return not self._stopped

    def _deliver(self, serial: int) -> None:
        call, due_s = self._unstarted.pop(serial)
        lag_s = self._time.now_s() - due_s
        answer = self._send(call)
        self._note(Attempt(call, answer, self._time.now_s() - due_s, lag_s))
