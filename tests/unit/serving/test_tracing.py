import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from models.trace_context import TRACEPARENT
from serving.testing import ManualClock
from serving.tracing import SpanId, Trace, Tracer, parse_traceparent
from tests.support.spans import Spans, attributes, id_of, seconds

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"
NOT_SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00"


@dataclass
class Member:
    trace: Trace | None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def own_context() -> Iterator[None]:
    token = TRACEPARENT.set(None)
    yield
    TRACEPARENT.reset(token)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        SAMPLED + "0",
        SAMPLED + "-extra",  # version 00 has four fields
        SAMPLED.upper(),
        "ff" + SAMPLED[2:],
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        SAMPLED.replace("-", "_"),
        f"00-{TRACE_ID}-{SPAN_ID}-\u0660\u0661",
    ],
)
def test_what_is_no_traceparent_is_none(header: str) -> None:
    assert parse_traceparent(header) is None


@given(st.text(max_size=80))
def test_any_text_is_read_without_an_error(header: str) -> None:
    assert parse_traceparent(header) is None or len(header.strip()) >= 55


@pytest.mark.parametrize(("header", "sampled"), [(SAMPLED, True), (NOT_SAMPLED, False), (f"cc-{SAMPLED[3:]}-x", True)])
def test_a_traceparent_is_read(header: str, sampled: bool) -> None:
    caller = parse_traceparent(f" {header} ")
    assert caller is not None
    assert (caller.id, caller.sampled) == (SpanId(TRACE_ID, SPAN_ID), sampled)


@pytest.mark.parametrize(
    ("header", "follow", "chance", "traced"),
    [
        (None, True, 0.09, True),
        (None, True, 0.1, False),  # drawn from [0, 1): a ratio of 0 traces nothing
        (SAMPLED, True, 0.99, True),
        (NOT_SAMPLED, True, 0.0, False),
        (SAMPLED, False, 0.99, False),
        (NOT_SAMPLED, False, 0.0, True),
        ("nonsense", True, 0.0, True),
        ("nonsense", True, 0.5, False),
    ],
)
def test_who_decides(clock: ManualClock, header: str | None, follow: bool, chance: float, traced: bool) -> None:
    spans = Spans(clock, ratio=0.1, follow=follow, chance=lambda: chance)
    assert (spans.tracer.begin("m/1", clock(), header) is not None) is traced


def test_a_share_of_the_requests_is_traced(clock: ManualClock) -> None:
    draws = iter([number / 1000 for number in range(1000)])
    tracer = Spans(clock, ratio=0.01, chance=lambda: next(draws)).tracer
    assert sum(tracer.begin("m/1", clock()) is not None for _ in range(1000)) == 10


def test_a_trace_goes_on_that_of_its_caller(clock: ManualClock) -> None:
    spans = Spans(clock)
    trace = spans.tracer.begin("m/1", clock(), SAMPLED)
    assert trace is not None
    assert trace.trace_id == TRACE_ID
    assert trace.traceparent.startswith(f"00-{TRACE_ID}-")
    assert trace.traceparent != SAMPLED
    trace.finish(clock())
    root = spans.named("infer m/1")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert root.kind == Span.SPAN_KIND_SERVER


def test_without_a_caller_a_trace_is_new_and_has_no_parent(clock: ManualClock) -> None:
    spans = Spans(clock)
    ids = set()
    for _ in range(2):
        trace = spans.tracer.begin("m/1", clock())
        assert trace is not None
        trace.finish(clock())
        ids.add(trace.trace_id)
    assert len(ids) == 2
    assert all(not span.parent_span_id for span in spans.all)


def test_stages_are_below_it_and_keep_their_times(clock: ManualClock) -> None:
    spans = Spans(clock)
    before_ns = time.time_ns()
    trace = spans.tracer.begin("m/1", clock())
    after_ns = time.time_ns()
    assert trace is not None
    trace.stage("queue", clock() + 0.25, clock() + 1.0, {"rows": 3})
    trace.note({"variant": "small"})
    trace.finish(clock() + 2.0, "too late")
    root = spans.named("infer m/1")
    stage = spans.below(root)["queue"]
    assert seconds(stage) == pytest.approx(0.75, abs=1e-6)
    assert seconds(root) == pytest.approx(2.0, abs=1e-6)
    assert stage.start_time_unix_nano - root.start_time_unix_nano == pytest.approx(0.25e9, abs=1e3)
    assert before_ns - 1e6 <= root.start_time_unix_nano <= after_ns + 1e6  # the time of day
    assert attributes(stage) == {"rows": 3}
    assert attributes(root)["variant"] == "small"
    assert (root.status.code, root.status.message) == (root.status.STATUS_CODE_ERROR, "too late")


def test_a_stage_never_ends_before_it_starts(clock: ManualClock) -> None:
    spans = Spans(clock)
    trace = spans.tracer.begin("m/1", clock())
    assert trace is not None
    trace.stage("queue", clock() + 1.0, clock())
    trace.finish(clock())
    assert seconds(spans.named("queue")) == 0


def test_a_batch_links_to_its_traced_requests_and_they_learn_of_it(clock: ManualClock, own_context: None) -> None:
    spans = Spans(clock)
    first, second = (spans.tracer.begin("m/1", clock()) for _ in range(2))
    assert first is not None
    assert second is not None
    batch = spans.tracer.batch([Member(first), Member(None), Member(second)], "m/1", "small", 7, clock())
    assert batch is not None
    batch.end(clock() + 0.1, clock() + 0.5, None)
    root = spans.named("batch m/1")
    assert not root.parent_span_id
    assert root.kind == Span.SPAN_KIND_INTERNAL
    assert [id_of(link) for link in root.links] == [first.id, second.id]
    told = attributes(root)
    assert (told["gearshift.variant"], told["gearshift.rows"]) == ("small", 7)
    stages = spans.below(root)
    assert told["gearshift.merge_ms"] == pytest.approx(100.0)
    assert seconds(stages["compute"]) == pytest.approx(0.4, abs=1e-6)
    assert first.batch == second.batch == id_of(root)
    assert root.status.code == root.status.STATUS_CODE_UNSET
    first.stage("batch", clock(), clock() + 0.5, link=first.batch)
    first.finish(clock() + 0.5)
    assert [id_of(link) for link in spans.named("batch").links] == [id_of(root)]


def test_a_batch_without_a_traced_request_is_not_traced(clock: ManualClock, own_context: None) -> None:
    spans = Spans(clock)
    assert spans.tracer.batch([Member(None)], "m/1", "small", 1, clock()) is None
    assert spans.all == []


def test_a_failed_batch_says_so(clock: ManualClock, own_context: None) -> None:
    spans = Spans(clock)
    batch = spans.tracer.batch([Member(spans.tracer.begin("m/1", clock()))], "m/1", "v", 1, clock())
    assert batch is not None
    batch.end(clock(), clock(), RuntimeError("secret"))
    assert spans.named("batch m/1").status.message == "RuntimeError"


def test_calls_on_behalf_of_a_batch_go_on_in_its_trace(clock: ManualClock, own_context: None) -> None:
    spans = Spans(clock)
    batch = spans.tracer.batch([Member(spans.tracer.begin("m/1", clock()))], "m/1", "v", 1, clock())
    assert batch is not None
    batch.end(clock(), clock(), None)
    carried = TRACEPARENT.get()
    assert carried is not None
    parent = parse_traceparent(carried)
    assert parent is not None
    assert parent.id == id_of(spans.named("batch m/1"))
    assert parent.sampled
    spans.tracer.batch([Member(None)], "m/1", "v", 1, clock())
    assert TRACEPARENT.get() is None


def test_a_trace_is_told_once_it_is_over(clock: ManualClock) -> None:
    spans = Spans(clock)
    trace = spans.tracer.begin("m/1", clock())
    assert trace is not None
    trace.stage("queue", clock(), clock())
    assert spans.all == []
    trace.finish(clock())
    assert {span.name for span in spans.all} == {"infer m/1", "queue"}


def test_closing_is_passed_on(clock: ManualClock) -> None:
    closed: list[bool] = []
    Tracer(print, clock, sample_ratio=1, follow_caller=True, close=lambda: closed.append(True)).close()
    assert closed == [True]
