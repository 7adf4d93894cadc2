import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec.compression import UnsupportedEncoding
from serving.core.errors import InvalidRequest, PayloadTooLarge
from serving.grpc.errors import CallRefused
from serving.grpc.framing import MessageReader, framed, unpacked


def reader(most: int = 1000) -> tuple[MessageReader, Any]:
    connection = SimpleNamespace(unfinished_bytes=0)
    return MessageReader(connection, most), connection  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 40))
def test_messages_come_back_however_the_bytes_are_cut(messages: list[bytes], step: int) -> None:
    wire = b"".join(framed(message, None) for message in messages)
    found, connection = reader()
    read = [sent for at in range(0, len(wire), step) for sent in found.read(wire[at : at + step])]
    assert [(flag, bytes(message)) for flag, message in read] == [(False, message) for message in messages]
    assert not found.incomplete
    assert connection.unfinished_bytes == 0


def test_what_is_held_back_is_counted_on_the_connection() -> None:
    found, connection = reader()
    found.read(framed(b"whole", None) + b"\x00\x00\x00")
    assert (found.incomplete, connection.unfinished_bytes) == (True, 3)
    found.read(b"\x00\x10part")
    assert connection.unfinished_bytes == 9
    found.discard()
    assert (found.incomplete, connection.unfinished_bytes) == (False, 0)


def test_a_message_above_the_limit_is_refused_by_its_prefix() -> None:
    found, _ = reader(10)
    with pytest.raises(PayloadTooLarge, match="the message is larger than 10 bytes"):
        found.read(b"\x00\x00\x00\x00\x0b")


def test_one_connection_holds_twice_a_message_at_most() -> None:
    first, connection = reader(10)
    others = [MessageReader(connection, 10) for _ in range(3)]
    first.read(b"\x00\x00\x00\x00\x0a1234")
    others[0].read(b"\x00\x00\x00\x00\x0a1234")
    with pytest.raises(PayloadTooLarge, match="unfinished messages on one connection"):
        others[1].read(b"\x00\x00\x00\x00\x0a1234")


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(CallRefused):
        reader()[0].read(b"\x02\x00\x00\x00\x00")


@pytest.mark.parametrize(("coding", "bits"), [("gzip", 31), ("deflate", 15)])
def test_only_what_gets_smaller_is_compressed(coding: str, bits: int) -> None:
    long = bytes(5000)
    packed = framed(long, coding)
    assert packed[0] == 1
    assert len(packed) < 100
    assert zlib.decompress(packed[5:], wbits=bits) == long
    assert unpacked(packed[5:], coding, 5000) == long
    assert framed(b"short", coding) == b"\x00\x00\x00\x00\x05short"


def test_a_compressed_message_must_be_what_it_says() -> None:
    with pytest.raises(CallRefused, match="no grpc-encoding"):
        unpacked(b"x", None, 100)
    with pytest.raises(UnsupportedEncoding):
        unpacked(b"x", "snappy", 100)
    with pytest.raises(InvalidRequest):
        unpacked(b"x", "gzip", 100)
    with pytest.raises(PayloadTooLarge):
        unpacked(framed(bytes(5000), "gzip")[5:], "gzip", 100)
