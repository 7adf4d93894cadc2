import pytest

from serving.http.head import (
    CODING,
    HOST,
    LENGTH,
    check_head,
    check_once,
    check_size,
    lines_size,
    split_target,
    without_upgrade,
)
from serving.http.limits import HttpLimits
from serving.http.refusal import RequestRefused


def test_watched_headers_are_collected_once() -> None:
    seen = check_once(0, b"host", b"a")
    assert seen == HOST
    assert check_once(seen, b"transfer-encoding", b" Chunked ") == HOST | CODING
    with pytest.raises(RequestRefused) as refused:
        check_once(seen, b"host", b"a")
    assert refused.value.refusal is not None
    assert refused.value.refusal.text == "more than one Host header"


@pytest.mark.parametrize(
    ("version", "seen"), [("1.1", HOST), ("1.0", 0), ("1.1", HOST | CODING), ("1.1", HOST | LENGTH)]
)
def test_a_head_with_one_meaning_passes(version: str, seen: int) -> None:
    check_head(version, seen)


@pytest.mark.parametrize(
    ("version", "seen", "status"),
    [
        ("1.1", 0, 400),
        ("1.1", HOST | CODING | LENGTH, 400),
        ("1.0", HOST | CODING, 400),
        ("2.0", HOST, 505),
        ("0.9", HOST, 505),
    ],
)
def test_a_head_with_two_meanings_is_refused(version: str, seen: int, status: int) -> None:
    with pytest.raises(RequestRefused) as refused:
        check_head(version, seen)
    assert refused.value.refusal is not None
    assert refused.value.refusal.status == status


def test_the_size_of_a_head_counts_lines_as_they_were_on_the_wire() -> None:
    headers = [(b"host", b"abc"), (b"x", b"")]
    assert lines_size(headers) == len(b"host: abc\r\nx: \r\n")
    exact = HttpLimits(max_header_bytes=lines_size(headers) + 1)
    check_size(exact, b"/", headers)
    with pytest.raises(RequestRefused):
        check_size(exact, b"/a", headers)


def test_targets_are_split() -> None:
    assert split_target(b"/a%20b?c=%20") == ("/a b", b"/a%20b", b"c=%20")
    assert split_target(b"http://host") == ("/", b"/", b"")
    with pytest.raises(RequestRefused):
        split_target(b"host:443")


def test_the_wish_for_an_upgrade_is_dropped() -> None:
    headers = [(b"host", b"a"), (b"connection", b"upgrade"), (b"upgrade", b"h2c")]
    expected = b"GET /?q HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\r\n"
    assert without_upgrade(b"GET", b"/?q", "1.1", headers) == expected
