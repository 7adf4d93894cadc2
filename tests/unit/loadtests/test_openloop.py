from itertools import count

import gevent
import pytest
from gevent.event import Event

from loadtests.answers import CUT, UNSENT, Answer
from loadtests.openloop import OpenLoop
from loadtests.workload import Call
from serving.core.budget import RequestBudget
from tests.support.virtual_time import VirtualTime

FINE = Answer(200, variant="only", batch_rows=1)


def calls(times, latency_s=1.0):
    budget = RequestBudget(latency_s=latency_s)
    return [Call(at_s, "m", 1, budget, "k") for at_s in times]


def every(step_s, until_s):
    return [number * step_s for number in range(round(until_s / step_s))]


class Run:
    """One run of the loop in virtual time; `server` returns the moment at which a call that arrives now is answered."""

    def __init__(self, server, senders=1000):
        self.time = VirtualTime()
        self.sent = []
        self.attempts = []
        self._server = server
        self.loop = OpenLoop(self._send, self.attempts.append, self.time, senders)

    def _send(self, call):
        self.sent.append((call.at_s, self.time.now))
        try:
            self.time.sleep(self._server(self.time.now) - self.time.now)
        except gevent.GreenletExit:
            return CUT
        return FINE


def test_each_request_is_sent_at_its_time_whatever_the_server_does():
    run = Run(lambda now: now + 3.0)
    run.loop.run(calls(every(0.1, 2.0)), 10.0)
    assert [at for at, _ in run.sent] == every(0.1, 2.0)
    assert [when for _, when in run.sent] == pytest.approx([10 + at for at in every(0.1, 2.0)])
    assert {attempt.answer for attempt in run.attempts} == {FINE}


def test_a_stall_shows_in_every_request_that_was_due_in_it():
    """The server answers at once, but nothing between 2 and 4 s."""
    run = Run(lambda now: 4.0 if 2 <= now < 4 else now)
    run.loop.run(calls(every(0.01, 6.0)), 0.0)
    latency = {attempt.call.at_s: attempt.latency_s for attempt in run.attempts}
    assert len(latency) == 600
    for at_s, seconds in latency.items():
        expected = 4 - at_s if 2 <= at_s < 4 else 0
        assert seconds == pytest.approx(expected, abs=1e-9)
    # A caller who waits for each answer before sending again would have seen one slow request in 400.
    assert sum(seconds > 0.5 for seconds in latency.values()) == pytest.approx(150, abs=1)


def test_latency_counts_from_the_intended_send_when_senders_are_short():
    run = Run(lambda now: now + 0.4, senders=1)
    run.loop.run(calls([0.0, 0.1], latency_s=5.0), 0.0)
    first, second = run.attempts
    assert (first.lag_s, first.latency_s) == pytest.approx((0.0, 0.4))
    assert second.lag_s == pytest.approx(0.3, abs=0.002)
    assert second.latency_s == pytest.approx(0.7, abs=0.002)


def test_a_send_that_cannot_be_made_in_time_is_counted():
    run = Run(lambda now: now + 10.0, senders=2)
    run.loop.run(calls([0.0, 0.0, 1.0, 2.0], latency_s=0.5), 0.0)
    assert [attempt.call.at_s for attempt in run.attempts if attempt.answer is UNSENT] == [1.0, 2.0]
    assert len(run.attempts) == 4
    assert len(run.sent) == 2
    assert all(attempt.latency_s >= 0.5 for attempt in run.attempts if attempt.answer is UNSENT)


def test_a_late_start_sends_everything_and_tells_the_lag():
    run = Run(lambda now: now)
    run.time.now = 5.0
    run.loop.run(calls(every(0.1, 1.0), latency_s=60.0), 0.0)
    assert [attempt.lag_s for attempt in run.attempts] == pytest.approx([5 - at for at in every(0.1, 1.0)])


def test_stopping_cuts_what_is_on_its_way_and_notes_every_call_that_was_due():
    run = Run(lambda now: now + 100.0)

    gevent.spawn(lambda: (run.time.sleep(0.95), run.loop.stop()))
    run.loop.run(calls(every(0.1, 50.0)), 0.0)
    assert [attempt.answer for attempt in run.attempts] == [CUT] * 10
    assert sorted(attempt.call.at_s for attempt in run.attempts) == pytest.approx(every(0.1, 1.0))
    assert run.time.now < 50


def test_note_may_stop_the_loop():
    run = Run(lambda now: now + 0.01)
    numbers = count(1)
    noted = []

    def note(attempt):
        noted.append(attempt)
        if next(numbers) == 3:
            run.loop.stop()

    run.loop._note = note
    run.loop.run(calls(every(1.0, 20.0)), 0.0)
    assert len(noted) == 3


def test_killing_the_greenlet_that_runs_it_notes_what_was_due():
    run = Run(lambda now: now + 100.0)
    player = gevent.spawn(run.loop.run, calls([0.0, 0.0, 99.0]), 0.0)
    begun = Event()
    gevent.spawn(lambda: (run.time.sleep(0.5), begun.set()))
    begun.wait()
    player.kill()
    assert [attempt.answer for attempt in run.attempts] == [CUT, CUT]


def test_a_sender_killed_before_it_ran_is_noted_too():
    run = Run(lambda now: now)

    class Stopping:
        def __iter__(self):
            yield from calls([0.0])
            run.loop.stop()  # the sender of the first call has not run yet
            yield from calls([0.0])

    run.loop.run(Stopping(), 0.0)
    assert [attempt.answer for attempt in run.attempts] == [CUT]
    assert run.sent == []
