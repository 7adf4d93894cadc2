import pytest

from serving.grpc.head import read_head
from serving.http2.hpack import Field

PLAIN: list[Field] = [(b":method", b"POST"), (b":path", b"/a.B/C"), (b"content-type", b"application/grpc")]


def test_a_plain_call() -> None:
    head = read_head(PLAIN)
    assert (head.path, head.timeout_s, head.encoding, head.fault) == (b"/a.B/C", None, None, None)
    assert head.budget == {}


def test_what_a_caller_may_say() -> None:
    head = read_head(
        [
            *PLAIN,
            (b"grpc-timeout", b"250m"),
            (b"grpc-encoding", b"GZIP"),
            (b"latency-budget-ms", b"20"),
            (b"min_accuracy", b"0.5"),
            (b"x-request-id", b"abc"),
            (b"traceparent", b"00-x"),
        ]
    )
    assert (head.timeout_s, head.encoding, head.request_id, head.traceparent) == (0.25, "gzip", b"abc", "00-x")
    assert head.budget == {"latency_budget_ms": "20", "min_accuracy": "0.5"}


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"99999999n", 0.1)]
)
def test_timeouts_of_every_unit(text: bytes, seconds: float) -> None:
    assert read_head([*PLAIN, (b"grpc-timeout", text)]).timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"S", b"1", b"1x", b"-1S", b"1.5S", b"123456789S"])
def test_a_broken_timeout_is_told(text: bytes) -> None:
    head = read_head([*PLAIN, (b"grpc-timeout", text)])
    assert head.fault is not None
    assert "grpc-timeout" in head.fault


@pytest.mark.parametrize("wrong", [(b":method", b"GET"), (b"content-type", b"application/json")])
def test_what_is_no_call_is_told(wrong: Field) -> None:
    assert read_head([*PLAIN, wrong]).fault is not None


def test_a_request_id_that_cannot_be_logged_is_dropped() -> None:
    assert read_head([*PLAIN, (b"x-request-id", b"a\x00b")]).request_id == b""
