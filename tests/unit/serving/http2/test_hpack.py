import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http2.hpack import Field, HeaderReader, HeadersTooLarge, HpackError, write_fields
from serving.http2.huffman import HuffmanReader

HUFFMAN = HuffmanReader()
FIELDS = st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300)), max_size=8)


def reader(max_bytes: int = 1 << 20, max_fields: int = 100) -> HeaderReader[list[Field]]:
    return HeaderReader(list, HUFFMAN, max_bytes=max_bytes, max_fields=max_fields)


def test_the_examples_of_the_rfc() -> None:
    """C.4: three requests on one connection, each building on the table of those before."""
    table = reader()
    first = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    assert table.read(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")) == first
    assert table.read(bytes.fromhex("828684be5886a8eb10649cbf")) == [*first, (b"cache-control", b"no-cache")]
    assert table.read(bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ]


@given(FIELDS)
def test_what_is_written_is_read(fields: list[Field]) -> None:
    table = reader()
    assert table.read(write_fields(fields)) == fields
    assert table.read(write_fields(fields)) == fields


def test_the_same_block_is_made_once_until_the_table_changes() -> None:
    made: list[list[Field]] = []

    def make(fields: list[Field]) -> list[Field]:
        made.append(fields)
        return fields

    table: HeaderReader[list[Field]] = HeaderReader(make, HUFFMAN, max_bytes=1000, max_fields=10)
    table.read(b"\x40\x01a\x011")  # a: 1, kept as the newest entry
    assert table.read(b"\xbe") is table.read(b"\xbe")
    assert len(made) == 2
    table.read(b"\x40\x01b\x012")
    assert table.read(b"\xbe") == [(b"b", b"2")], "the same reference means the newer entry now"
    assert table.read(b"\xbf") == [(b"a", b"1")]


def test_old_entries_leave_a_full_table() -> None:
    table = reader()
    for number in range(20):
        table.read(b"\x40\x01n\x7f\xc9\x01" + bytes((number,)) * 328)
    assert table.read(b"\xbe") == [(b"n", bytes((19,)) * 328)]
    with pytest.raises(HpackError):
        table.read(b"\xff\x00" + b"\xfe")  # 4096 / 361: only eleven are left
    table.read(b"\x20")  # a table of size 0
    with pytest.raises(HpackError):
        table.read(b"\xbe")


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xff\x80\x80\x80\x80\x80\x01",  # an endless integer
        b"\x00\x05ab",  # a text longer than the block
        b"\x00",  # nothing behind it
        b"\x3f\xe2\x1f",  # a table of 4097 bytes
        b"\x82\x20",  # a table size in the middle
        b"\x00\x81\x00\x00",  # a broken code
        b"\xbe",  # an entry that is not there
    ],
)
def test_blocks_that_cannot_be_read(block: bytes) -> None:
    with pytest.raises(HpackError):
        reader().read(block)


@given(st.binary(max_size=100))
def test_whatever_comes_nothing_else_is_raised(block: bytes) -> None:
    table = reader()
    with contextlib.suppress(HpackError, HeadersTooLarge):
        table.read(block)


def test_a_small_block_cannot_become_a_large_list() -> None:
    table = reader(max_bytes=1000, max_fields=5)
    with pytest.raises(HeadersTooLarge):
        table.read(b"\x82" * 6)
    with pytest.raises(HeadersTooLarge):
        table.read(b"\x40\x01a\x7f\x81\x08" + b"x" * 1152)
    # It was read to its end: the table is as the client thinks.
    assert table.read(b"\x82") == [(b":method", b"GET")]
