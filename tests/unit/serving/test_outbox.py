"""Traces that wait: who takes them is stuck, broken, or gone, and nobody else notices."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from serving.metrics import Metrics, stat
from serving.outbox import FLUSH_WITHIN_S, MAX_BATCH, MAX_WAITING, Outbox
from serving.tracing import Trace

BOUND_S = FLUSH_WITHIN_S + 20.0
"""Generous: the machine is shared."""


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    found = Metrics(tmp_path)
    yield found
    found.close()


class Taker:
    """Takes traces; `stuck` until it is let go."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.released = threading.Event()
        self.reached = threading.Event()
        self.batches: list[list[Trace]] = []
        if not stuck:
            self.released.set()

    def send(self, traces: Sequence[Trace], closing: threading.Event) -> int:
        self.reached.set()
        self.released.wait(60)
        self.batches.append(list(traces))
        return sum(1 + len(trace.stages) for trace in traces)


def trace(stages: int = 0) -> Trace:
    made = Trace(print, "infer m/1", 0.0, 0, {})
    for _ in range(stages):
        made.stage("queue", 0.0, 1.0)
    return made


def counted(metrics: Metrics) -> dict[str, float]:
    metrics.flush()
    found = metrics.collect()
    return {result: stat(found, "gearshift_spans_total", result=result) for result in ("sent", "failed", "dropped")}


def ends_in_time(outbox: Outbox) -> bool:
    started_s = time.monotonic()
    closing = threading.Thread(target=outbox.close, daemon=True)
    closing.start()
    closing.join(BOUND_S)
    return not closing.is_alive() and time.monotonic() - started_s < BOUND_S


def test_closing_sends_what_waits_in_the_order_it_came(metrics: Metrics) -> None:
    taker = Taker()
    outbox = Outbox(taker.send, metrics)
    traces = [trace(stages=2) for _ in range(5)]
    for one in traces:
        outbox.put(one)
    outbox.close()
    assert [one for batch in taker.batches for one in batch] == traces
    assert counted(metrics) == {"sent": 15, "failed": 0, "dropped": 0}


def test_a_full_message_goes_out_at_once(metrics: Metrics) -> None:
    taker = Taker()
    outbox = Outbox(taker.send, metrics)
    for _ in range(MAX_BATCH):
        outbox.put(trace())
    assert taker.reached.wait(60)
    outbox.close()
    assert all(len(batch) <= MAX_BATCH for batch in taker.batches)
    assert counted(metrics)["sent"] == MAX_BATCH


def test_a_stuck_collector_holds_up_nobody_and_memory_is_bounded(metrics: Metrics) -> None:
    taker = Taker(stuck=True)
    outbox = Outbox(taker.send, metrics)
    for _ in range(MAX_BATCH):
        outbox.put(trace())
    assert taker.reached.wait(60)
    for _ in range(2 * MAX_WAITING):  # returns although nothing is taken
        outbox.put(trace())
    assert ends_in_time(outbox)
    found = counted(metrics)
    assert found["failed"] == MAX_WAITING
    assert found["failed"] + found["dropped"] <= MAX_BATCH + 2 * MAX_WAITING
    assert found["dropped"] >= MAX_WAITING - MAX_BATCH
    taker.released.set()


def test_a_defect_is_counted_and_the_next_are_sent(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Trace] = []

    def send(traces: Sequence[Trace], closing: threading.Event) -> int:
        if not sent:
            sent.append(traces[0])
            raise RuntimeError("a defect")
        sent.extend(traces)
        return len(traces)

    outbox = Outbox(send, metrics)
    for _ in range(MAX_BATCH + 1):
        outbox.put(trace())
    outbox.close()
    assert "spans could not be sent" in caplog.text
    found = counted(metrics)
    assert found["failed"] > 0
    assert found["sent"] > 0
    assert found["sent"] + found["failed"] == MAX_BATCH + 1


def test_what_was_not_taken_failed(metrics: Metrics) -> None:
    outbox = Outbox(lambda traces, closing: 1, metrics)
    outbox.put(trace(stages=3))
    outbox.close()
    assert counted(metrics) == {"sent": 1, "failed": 3, "dropped": 0}


def test_after_the_end_nothing_is_taken(metrics: Metrics) -> None:
    taker = Taker()
    outbox = Outbox(taker.send, metrics)
    outbox.close()
    outbox.put(trace(stages=1))
    outbox.close()  # twice is no harm
    assert taker.batches == []
    assert counted(metrics)["dropped"] == 2
