import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http2.huffman import HuffmanError, HuffmanReader

READER = HuffmanReader()
CODES = {symbol: (size, code) for (size, code), symbol in READER._codes.items()}


def encode(text: bytes) -> bytes:
    bits = "".join(f"{code:0{size}b}" for size, code in (CODES[byte] for byte in text))
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8) if bits else b""


@pytest.mark.parametrize(
    ("coded", "text"),
    [
        ("f1e3c2e5f23a6ba0ab90f4ff", b"www.example.com"),
        ("a8eb10649cbf", b"no-cache"),
        ("25a849e95ba97d7f", b"custom-key"),
        ("6402", b"302"),
        ("", b""),
    ],
)
def test_the_examples_of_the_rfc(coded: str, text: bytes) -> None:
    assert READER.decode(bytes.fromhex(coded)) == text


@given(st.binary(max_size=200))
def test_every_text_comes_back(text: bytes) -> None:
    assert READER.decode(encode(text)) == text


def test_the_code_is_complete() -> None:
    assert sum(2.0**-size for size, _ in CODES.values()) == 1.0
    assert sorted(CODES) == list(range(257))


@pytest.mark.parametrize("coded", [b"\x00", encode(b"a") + b"\xff", b"\xff\xff\xff\xff"])
def test_wrong_padding_and_the_end_mark_are_refused(coded: bytes) -> None:
    with pytest.raises(HuffmanError):
        READER.decode(coded)
