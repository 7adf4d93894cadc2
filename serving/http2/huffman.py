"""The Huffman code of HPACK (RFC 7541, appendix B), read only: this server sends its few headers as they are."""

_LENGTHS = (
    "dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad67777777777777777777777878djde6"
    "f56565666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmn"
    "qqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu"
)
"""Bits of the code of each byte, and of the end mark, in base 36. The code is canonical: it follows from these."""


class HuffmanError(ValueError):
    """Not a text in this code."""


class HuffmanReader:
    """Decodes texts. Make one and keep it: its table is made from the lengths."""

    def __init__(self) -> None:
        lengths = [int(digit, 36) for digit in _LENGTHS]
        ordered = sorted(range(len(lengths)), key=lambda symbol: (lengths[symbol], symbol))
        self._codes: dict[tuple[int, int], int] = {}
        code = previous = 0
        for symbol in ordered:
            code <<= lengths[symbol] - previous
            previous = lengths[symbol]
            self._codes[previous, code] = symbol
            code += 1
        self._sizes = sorted(set(lengths))
        self._end = len(lengths) - 1

    def decode(self, data: bytes) -> bytes:
        """The text. Raises `HuffmanError`."""
        out = bytearray()
        held = count = 0  # bits not used yet, and how many
        for byte in data:
            held = held << 8 | byte
            count += 8
            while (found := self._symbol(held, count)) is not None:
                symbol, size = found
                if symbol == self._end:
                    raise HuffmanError("the end mark inside a text")
                out.append(symbol)
                count -= size
                held &= (1 << count) - 1
        if count > 7 or held != (1 << count) - 1:
            raise HuffmanError("wrong padding")
        return bytes(out)

    def _symbol(self, held: int, count: int) -> tuple[int, int] | None:
        """The first symbol in the bits, and its length; None where more bits are needed."""
        for size in self._sizes:
            if size > count:
                return None
            symbol = self._codes.get((size, held >> (count - size)))
            if symbol is not None:
                return symbol, size
        raise HuffmanError("no such code")
