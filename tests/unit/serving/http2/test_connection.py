import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.http2 import frames
from serving.http2.connection import CONNECTION_WINDOW, LEAVE_S
from serving.http2.errors import ErrorCode
from serving.http2.frames import Flag, FrameType, Setting
from serving.http2.hpack import write_fields
from serving.http2.limits import Http2Limits
from serving.http2.stream import STREAM_WINDOW
from tests.support.http2 import Client, RecordedStream, fields_of, frame

HEAD = write_fields([(b"h", b"1")])
TAIL = write_fields([(b"t", b"2")])


async def test_the_greeting_says_what_this_side_allows() -> None:
    client = Client()
    settings_frame, window, ack = client.answers()
    told = dict(frames.read_settings(settings_frame.payload))
    assert told[Setting.MAX_CONCURRENT_STREAMS] == 256
    assert told[Setting.INITIAL_WINDOW_SIZE] == STREAM_WINDOW
    assert window.word() + frames.DEFAULT_WINDOW == CONNECTION_WINDOW
    assert (ack.kind, ack.flags) == (FrameType.SETTINGS, Flag.ACK)


async def test_a_call_and_its_answer() -> None:
    client = Client()
    client.answers()
    client.headers(1, [(b"x", b"y")])
    client.data(1, b"question", end=True)
    stream = client.streams[1]
    assert (stream.head, stream.received, stream.ended) == ([(b"x", b"y")], b"question", True)
    stream.send(HEAD, b"answer", TAIL)
    head, data, tail = client.answers()
    assert fields_of(head.payload) == [(b"h", b"1")]
    assert data.payload == b"answer"
    assert (tail.flags & Flag.END_STREAM, fields_of(tail.payload)) == (1, [(b"t", b"2")])
    assert client.connection.streams == {}


async def test_bytes_may_come_one_by_one() -> None:
    client = Client(greet=False)
    wire = (
        frames.PREFACE + frames.settings({}) + frame(FrameType.HEADERS, Flag.END_HEADERS, 1, HEAD)
        + frame(FrameType.DATA, Flag.END_STREAM, 1, b"abc")
    )  # fmt: skip
    for byte in wire:
        client.send(bytes((byte,)))
    assert client.streams[1].received == b"abc"


async def test_padding_priorities_and_continuations_are_understood() -> None:
    client = Client()
    block = write_fields([(b"name", b"v" * 100)])
    client.send(frame(FrameType.HEADERS, Flag.PADDED | Flag.PRIORITY, 1, b"\x03" + bytes(5) + block[:10] + bytes(3)))
    client.send(frame(FrameType.CONTINUATION, 0, 1, block[10:20]))
    client.send(frame(FrameType.CONTINUATION, Flag.END_HEADERS, 1, block[20:]))
    client.send(frame(FrameType.DATA, Flag.PADDED, 1, b"\x02abc\x00\x00"))
    client.send(frame(FrameType.PRIORITY, 0, 1, bytes(5)) + frame(0x77, 0, 1, b"unknown"))
    assert client.streams[1].head == [(b"name", b"v" * 100)]
    assert client.streams[1].received == b"abc"


async def test_a_ping_is_answered() -> None:
    client = Client()
    client.answers()
    client.send(frame(FrameType.PING, 0, 0, b"12345678"))
    (pong,) = client.answers()
    assert (pong.flags, pong.payload) == (Flag.ACK, b"12345678")


async def test_answers_wait_for_the_clients_windows() -> None:
    client = Client()
    client.headers(1, end=True)
    client.answers()
    client.streams[1].send(HEAD, bytes(100_000), TAIL)
    sent = client.answers()
    assert sum(len(found.payload) for found in sent if found.kind == FrameType.DATA) == frames.DEFAULT_WINDOW
    assert all(len(found.payload) <= frames.DEFAULT_FRAME for found in sent)
    client.send(frames.window_update(1, 50_000))
    assert client.answers() == [], "the window of the connection is used up too"
    client.send(frames.window_update(0, 10_000))
    assert sum(len(found.payload) for found in client.answers()) == 10_000
    client.send(frames.window_update(0, 50_000))
    *rest, tail = client.answers()
    assert sum(len(found.payload) for found in rest) == 100_000 - frames.DEFAULT_WINDOW - 10_000
    assert tail.flags & Flag.END_STREAM
    assert client.connection.streams == {}


async def test_a_larger_initial_window_frees_what_waits() -> None:
    client = Client(greet=False)
    client.send(frames.PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 10, Setting.MAX_FRAME_SIZE: 20_000}))
    client.headers(1, end=True)
    client.answers()
    client.streams[1].send(HEAD, bytes(30), TAIL)
    assert [len(found.payload) for found in client.answers()][1:] == [10]
    client.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 40}))
    assert FrameType.DATA in client.kinds()
    assert client.connection.streams == {}


async def test_small_answers_do_not_overtake_a_waiting_one_of_their_stream() -> None:
    client = Client(greet=False)
    client.send(frames.PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 4}))
    client.headers(1)
    client.answers()
    stream = client.streams[1]
    stream.send(HEAD, b"abcdef", None)
    stream.send(b"", b"g", None)
    client.send(frames.window_update(1, 100))
    sent = b"".join(found.payload for found in client.answers() if found.kind == FrameType.DATA)
    assert sent == b"abcdefg"
    await asyncio.wait_for(stream.drained(), 1)


async def test_credit_comes_back_for_what_was_taken() -> None:
    client = Client()
    client.headers(1)
    client.answers()
    for _ in range(STREAM_WINDOW // 2 // 60_000 + 1):
        client.data(1, bytes(60_000))
    (update,) = client.answers()
    assert (update.kind, update.stream) == (FrameType.WINDOW_UPDATE, 1)
    for _ in range(CONNECTION_WINDOW // 60_000):
        client.data(1, bytes(60_000))
    assert {found.stream for found in client.answers()} == {0, 1}
    assert not client.transport.closed


async def test_streams_above_the_limit_are_refused_unread() -> None:
    client = Client(Http2Limits(max_streams=2))
    for number in (1, 3, 5):
        client.headers(number)
    refused = client.answers()[-1]
    assert (refused.kind, refused.stream, refused.word()) == (FrameType.RST_STREAM, 5, ErrorCode.REFUSED_STREAM)
    assert set(client.streams) == {1, 3}
    client.data(5, b"on its way")
    assert not client.transport.closed


async def test_a_reset_tells_whoever_works_on_the_stream() -> None:
    client = Client()
    client.headers(1)
    client.send(frames.rst_stream(1, ErrorCode.CANCEL))
    assert client.streams[1].gone
    client.answers()
    client.streams[1].send(HEAD, b"late", TAIL)
    client.data(1, b"late too")
    assert client.answers() == []


async def test_a_lost_connection_tells_all_streams() -> None:
    client = Client()
    client.headers(1)
    client.headers(3)
    client.connection.connection_lost(None)
    assert all(stream.gone for stream in client.streams.values())
    assert client.lost == 1
    assert not client.house.connections


async def test_an_early_answer_stops_the_upload() -> None:
    client = Client()
    client.headers(1)
    client.answers()
    client.streams[1].send(HEAD + TAIL, b"", b"")
    head, stop = client.answers()
    assert head.flags & Flag.END_STREAM
    assert (stop.kind, stop.word()) == (FrameType.RST_STREAM, ErrorCode.NO_ERROR)


@pytest.mark.parametrize("size", [5, 40_000])
async def test_an_answer_without_trailers_ends_with_its_data(size: int) -> None:
    client = Client()
    client.headers(1, end=True)
    client.answers()
    client.streams[1].send(HEAD, bytes(size), b"")
    sent = client.answers()
    assert [found.flags & Flag.END_STREAM for found in sent] == [0] * (len(sent) - 1) + [1]
    assert client.connection.streams == {}


async def test_leaving_loses_no_call() -> None:
    client = Client()
    client.headers(1)
    client.answers()
    client.connection.leave()
    warning, question = client.answers()
    assert (warning.kind, warning.word(), warning.word(4)) == (FrameType.GOAWAY, frames.STREAM_MASK, 0)
    client.headers(3)  # was on its way
    client.send(frame(FrameType.PING, Flag.ACK, 0, question.payload))
    (final,) = client.answers()
    assert final.word() == 3
    client.headers(5)
    assert set(client.streams) == {1, 3}
    for number in (1, 3):
        assert not client.transport.closed
        client.streams[number].send(HEAD, b"x", TAIL)
    client.connection._outbox.flush()
    assert client.transport.closed
    assert not client.transport.aborted


async def test_a_client_that_does_not_answer_the_ping_is_told_after_a_while() -> None:
    client = Client()
    client.connection.leave()
    client.clock.advance(LEAVE_S + 0.1)
    client.connection.sweep(client.clock())
    assert client.transport.closed


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(FrameType.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, Flag.END_HEADERS, 2, HEAD), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, Flag.END_HEADERS, 0, HEAD), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, Flag.END_HEADERS, 1, b"\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(FrameType.HEADERS, Flag.PADDED, 1, b"\x09a"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0, 1, HEAD) + frames.ping(bytes(8), ack=False), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0, 1, HEAD) + frame(FrameType.CONTINUATION, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (
            frame(FrameType.HEADERS, 0, 1, HEAD) + frame(FrameType.CONTINUATION, 0, 1, bytes(20_000)),
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
        (frame(FrameType.CONTINUATION, 0, 1, HEAD), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.PUSH_PROMISE, 0, 1, HEAD), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.settings({Setting.MAX_FRAME_SIZE: 100}), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.rst_stream(7, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, frames.MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
        (b"\x01\x00\x01" + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
async def test_who_breaks_the_protocol_is_told_how(sent: bytes, code: ErrorCode) -> None:
    client = Client()
    client.send(sent)
    assert client.failed_with() is code


async def test_more_data_than_allowed_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedStream, "credit", lambda self: None)  # it takes nothing of what comes
    client = Client()
    client.headers(1)
    for _ in range(STREAM_WINDOW // 60_000 + 1):
        client.data(1, bytes(60_000))
    assert client.failed_with() is ErrorCode.FLOW_CONTROL_ERROR


async def test_headers_beyond_the_limit_cost_the_call_alone() -> None:
    client = Client(Http2Limits(max_headers=3))
    client.answers()
    client.headers(1, [(b"a", b"b")] * 4)
    (reset,) = client.answers()
    assert (reset.stream, reset.word()) == (1, ErrorCode.ENHANCE_YOUR_CALM)
    client.headers(3)
    assert set(client.streams) == {3}


async def test_another_protocol_is_told_where_it_is() -> None:
    client = Client(greet=False)
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert client.transport.written.startswith(b"HTTP/1.1 505")
    assert client.transport.closed
    client.send(b"more")


async def test_silence_ends_in_time() -> None:
    limits = Http2Limits(header_timeout_s=5, idle_s=60, write_timeout_s=30)
    mute = Client(limits, greet=False)
    mute.clock.advance(5.1)
    mute.connection.sweep(mute.clock())
    assert mute.transport.aborted

    halting = Client(limits)
    halting.send(frame(FrameType.HEADERS, 0, 1, HEAD))
    halting.clock.advance(5.1)
    halting.connection.sweep(halting.clock())
    assert halting.transport.aborted

    idle = Client(limits)
    idle.answers()
    idle.clock.advance(60.1)
    idle.connection.sweep(idle.clock())
    assert idle.kinds() == [FrameType.GOAWAY, FrameType.PING]

    patient = Client(limits)
    patient.headers(1)
    patient.answers()
    patient.clock.advance(60.1)
    patient.connection.sweep(patient.clock())
    assert patient.kinds() == [FrameType.PING]
    patient.clock.advance(30.1)
    patient.connection.sweep(patient.clock())
    assert patient.transport.aborted, "nobody is there any more"


async def test_who_does_not_read_is_read_no_more_and_cut_in_the_end() -> None:
    client = Client(Http2Limits(write_timeout_s=30))
    client.connection.pause_writing()
    assert not client.transport.reading
    client.clock.advance(10)
    client.connection.resume_writing()
    assert client.transport.reading
    client.connection.pause_writing()
    client.clock.advance(30.1)
    client.connection.sweep(client.clock())
    assert client.transport.aborted


async def test_an_answer_nobody_takes_is_given_up() -> None:
    client = Client(Http2Limits(write_timeout_s=30, idle_s=1000))
    client.headers(1, end=True)
    client.streams[1].send(HEAD, bytes(70_000), TAIL)
    client.answers()
    client.clock.advance(31)
    client.connection.sweep(client.clock())
    (reset,) = client.answers()
    assert (reset.kind, reset.word()) == (FrameType.RST_STREAM, ErrorCode.CANCEL)
    assert client.streams[1].gone


async def test_an_old_connection_is_told_to_go() -> None:
    client = Client(Http2Limits(max_age_s=100, idle_s=1000))
    client.headers(1)
    client.answers()
    client.clock.advance(89)
    client.connection.sweep(client.clock())
    assert client.answers() == []
    client.clock.advance(22)
    client.connection.sweep(client.clock())
    assert client.kinds()[0] == FrameType.GOAWAY


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 255), st.sampled_from((0, 1, 2, 3, 5)), st.binary(max_size=40)),
        max_size=12,
    ),
    st.integers(1, 50),
)
async def test_no_bytes_raise(found: list[tuple[int, int, int, bytes]], cut: int) -> None:
    client = Client()
    wire = b"".join(frame(*parts) for parts in found)
    for at in range(0, len(wire), cut):
        client.send(wire[at : at + cut])
    client.answers()
