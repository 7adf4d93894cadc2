"""Header compression (RFC 7541): reads what clients send, and writes literals that need no state."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from serving.http2.huffman import HuffmanError, HuffmanReader

TABLE_BYTES = 4096
"""Size of the dynamic table a client may use: the protocol's default, never raised."""
_ENTRY_OVERHEAD = 32
_MAX_KEPT = 64
_MAX_INTEGER = 1 << 28

Field = tuple[bytes, bytes]
"""(name, value) of one header."""
Head = TypeVar("Head")

_STATIC_TABLE = (
    ":authority :method|GET :method|POST :path|/ :path|/index.html :scheme|http :scheme|https :status|200 "
    ":status|204 :status|206 :status|304 :status|400 :status|404 :status|500 accept-charset "
    "accept-encoding|gzip,_deflate accept-language accept-ranges accept access-control-allow-origin age allow "
    "authorization cache-control content-disposition content-encoding content-language content-length "
    "content-location content-range content-type cookie date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified link location max-forwards "
    "proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie "
    "strict-transport-security transfer-encoding user-agent vary via www-authenticate"
)
"""RFC 7541, appendix A: name|value, with underscores for spaces."""
_STATIC: tuple[Field, ...] = tuple(
    (name.encode(), value.replace("_", " ").encode())
    for name, _, value in (entry.partition("|") for entry in _STATIC_TABLE.split())
)


class HpackError(ValueError):
    """A header block that cannot be read: the state of the connection is lost."""


class HeadersTooLarge(ValueError):
    """A header block beyond the limits. It was read: the connection can go on."""


class HeaderReader(Generic[Head]):
    """Header blocks of one connection -> what `make` makes of their fields.

    A client sends nearly the same block with each call, as references into the table both sides keep. What was
    made of such a block is kept until the table changes, so most calls cost one look-up here.
    """

    def __init__(
        self, make: Callable[[Sequence[Field]], Head], huffman: HuffmanReader, *, max_bytes: int, max_fields: int
    ) -> None:
        self._make = make
        self._huffman = huffman
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._table: deque[Field] = deque()
        self._used = 0
        self._size = TABLE_BYTES
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """The head of a block. Raises `HpackError`, `HeadersTooLarge`, and what `make` raises."""
        head = self._known.get(block)
        if head is not None:
            return head
        try:
            fields, constant = self._fields(block)
        except (IndexError, HuffmanError) as error:
            raise HpackError(str(error)) from None
        head = self._make(fields)
        if constant:
            if len(self._known) >= _MAX_KEPT:
                self._known.clear()
            self._known[block] = head
        return head

    def _fields(self, block: bytes) -> tuple[list[Field], bool]:
        """The fields, and whether the same block will mean the same again."""
        fields: list[Field] = []
        constant = True
        size = at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                field = self._entry(index)
            elif first & 0xE0 == 0x20:
                if fields:
                    raise HpackError("a table size after the first field")
                size_wanted, at = _integer(block, at, 5)
                self._resize(size_wanted)
                constant = False
                continue
            else:
                kept = bool(first & 0x40)
                index, at = _integer(block, at, 6 if kept else 4)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = self._text(block, at)
                value, at = self._text(block, at)
                field = name, value
                if kept:
                    self._keep(field)
                    constant = False
            size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
            if size <= self._max_bytes and len(fields) < self._max_fields:
                fields.append(field)
            else:
                size = self._max_bytes + 1  # read on, for the table's sake
        if size > self._max_bytes:
            raise HeadersTooLarge(f"the headers are larger than {self._max_bytes} bytes or {self._max_fields} fields")
        return fields, constant

    def _entry(self, index: int) -> Field:
        if not index:
            raise HpackError("index 0")
        return _STATIC[index - 1] if index <= len(_STATIC) else self._table[index - len(_STATIC) - 1]

    def _text(self, block: bytes, at: int) -> tuple[bytes, int]:
        coded = block[at] & 0x80
        length, at = _integer(block, at, 7)
        end = at + length
        if end > len(block):
            raise HpackError("a text longer than its block")
        text = block[at:end]
        return (self._huffman.decode(text) if coded else text), end

    def _keep(self, field: Field) -> None:
        self._known.clear()
        size = len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
        self._evict(self._size - size)
        if size <= self._size:
            self._table.appendleft(field)
            self._used += size

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES:
            raise HpackError("a table larger than allowed")
        self._known.clear()
        self._size = size
        self._evict(size)

    def _evict(self, room: int) -> None:
        while self._table and self._used > room:
            name, value = self._table.pop()
            self._used -= len(name) + len(value) + _ENTRY_OVERHEAD


def write_fields(fields: Iterable[Field]) -> bytes:
    """A header block of literals without indexing: right on every connection, whatever was sent before."""
    parts: list[bytes] = []
    for name, value in fields:
        parts += (b"\x00", _length(len(name)), name, _length(len(value)), value)
    return b"".join(parts)


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of that many bits (5.1), and where it ends."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if value > _MAX_INTEGER or shift > 28:
            raise HpackError("an integer beyond all limits")
        if not byte & 0x80:
            return value, at
        shift += 7


def _length(size: int) -> bytes:
    if size < 0x7F:
        return bytes((size,))
    size -= 0x7F
    out = bytearray(b"\x7f")
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)
