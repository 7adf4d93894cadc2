import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec.compression import UnsupportedEncoding, compress, decompress, preferred_encoding
from serving.core.errors import InvalidRequest, PayloadTooLarge

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@given(plain=st.binary(max_size=300))
def test_what_clients_pack_is_unpacked(encoding: str, plain: bytes) -> None:
    assert decompress(PACK[encoding](plain), encoding, len(plain)) == plain


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity "])
def test_plain_bodies_pass(encoding: str | None) -> None:
    assert decompress(b"abc", encoding, 3) == b"abc"
    with pytest.raises(PayloadTooLarge):
        decompress(b"abc", encoding, 2)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress", "*"])
def test_other_encodings_are_an_error_of_their_own(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="expected gzip, deflate or identity"):
        decompress(b"", encoding, 10)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_damaged_streams(encoding: str) -> None:
    packed = PACK[encoding](b"hello" * 100)
    for cut in range(len(packed)):
        with pytest.raises(InvalidRequest, match="ends too early"):
            decompress(packed[:cut], encoding, 1000)
    with pytest.raises(InvalidRequest, match="goes on after"):
        decompress(packed + b"x", encoding, 1000)
    with pytest.raises(InvalidRequest, match="goes on after"):
        decompress(packed + packed, encoding, 1000)
    with pytest.raises(InvalidRequest, match="not a valid"):
        decompress(packed[:-1] + bytes([packed[-1] ^ 1]), encoding, 1000)
    with pytest.raises(InvalidRequest, match="not a valid"):
        decompress(b"plain text", encoding, 1000)


def test_a_raw_deflate_stream_is_not_what_http_calls_deflate() -> None:
    packer = zlib.compressobj(wbits=-15)
    with pytest.raises(InvalidRequest, match="not a valid deflate"):
        decompress(packer.compress(b"hello") + packer.flush(), "deflate", 100)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_bound_is_exact(encoding: str) -> None:
    packed = PACK[encoding](bytes(1000))
    assert len(decompress(packed, encoding, 1000)) == 1000
    with pytest.raises(PayloadTooLarge, match="longer than 999 bytes"):
        decompress(packed, encoding, 999)


def test_a_bomb_costs_no_more_memory_than_the_bound_allows() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    bound = 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decompress(bomb, "gzip", bound)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * bound


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5, deflate;q=0.9", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0, *;q=0.5", "deflate"),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0", None),
        ("br", None),
        ("", None),
        (" , ;q=1, gzip;q=x", None),
        ("gzip ; q=0.3", "gzip"),
        ("gzip;q=1.9", "gzip"),
    ],
)
def test_accept_encoding(accept: str, expected: str | None) -> None:
    assert preferred_encoding(accept) == expected


@given(accept=st.text(max_size=40))
def test_any_accept_encoding_has_an_answer(accept: str) -> None:
    assert preferred_encoding(accept) in (None, "gzip", "deflate")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_answers_are_packed_when_asked_and_worth_it(encoding: str) -> None:
    long = b"0.125," * 500
    packed, used = compress(long, encoding)
    assert used == encoding
    assert len(packed) < len(long)
    assert decompress(packed, encoding, len(long)) == long
    assert compress(long, None) == (long, None)
    assert compress(b"short", encoding) == (b"short", None)


def test_what_does_not_shrink_stays_plain() -> None:
    noise = b"".join(zlib.crc32(bytes([i % 256, i // 256])).to_bytes(4, "little") for i in range(600))
    assert compress(noise, "gzip") == (noise, None)
