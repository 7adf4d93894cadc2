"""Messages of a call in its stream of bytes: a flag for compression, a length, the message."""

import zlib

from serving.codec.compression import WORTH_COMPRESSING_BYTES, decompress
from serving.core.errors import PayloadTooLarge
from serving.grpc.errors import CallRefused, Code
from serving.http2.connection import Connection

Message = bytes | bytearray
"""One message, decompressed."""
Sent = tuple[bool, Message]
"""Whether it is compressed, and the message as it was sent."""

PREFIX_BYTES = 5
WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""What zlib calls the two codings."""
_LEVEL = 1


class MessageReader:
    """Bytes of one call -> messages. Counts what it holds back on the call's connection, which bounds the sum."""

    __slots__ = ("_buffer", "_connection", "_most")

    def __init__(self, connection: Connection, most: int) -> None:
        """`most`: bytes of one message; a connection may have twice as many that are not complete."""
        self._connection = connection
        self._most = most
        self._buffer: bytearray | None = None

    @property
    def incomplete(self) -> bool:
        """Whether it holds a part of a message."""
        return self._buffer is not None

    def read(self, data: bytes) -> list[Sent]:
        """The messages that are complete with these bytes. Raises `PayloadTooLarge`, `CallRefused`."""
        held: bytes | bytearray = data
        if self._buffer is not None:
            self._connection.unfinished_bytes += len(data)
            self._buffer += data
            held = self._buffer
        messages: list[Sent] = []
        at, end = 0, len(held)
        while end - at >= PREFIX_BYTES:
            size = int.from_bytes(held[at + 1 : at + PREFIX_BYTES])
            if size > self._most:
                raise PayloadTooLarge(f"the message is larger than {self._most} bytes")
            stop = at + PREFIX_BYTES + size
            if stop > end:
                break
            if held[at] > 1:
                raise CallRefused(Code.INTERNAL, "a message with flags nobody knows")
            messages.append((bool(held[at]), held[at + PREFIX_BYTES : stop]))
            at = stop
        if at < end:
            self._keep(held, at)
        else:
            self.discard()
        return messages

    def discard(self) -> None:
        """What it holds is not needed any more."""
        if self._buffer is not None:
            self._connection.unfinished_bytes -= len(self._buffer)
            self._buffer = None

    def _keep(self, held: bytes | bytearray, used: int) -> None:
        if self._buffer is None:
            self._buffer = bytearray(memoryview(held)[used:])
            self._connection.unfinished_bytes += len(self._buffer)
        elif used:
            del self._buffer[:used]
            self._connection.unfinished_bytes -= used
        if self._connection.unfinished_bytes > 2 * self._most:
            raise PayloadTooLarge("too many bytes of unfinished messages on one connection")


def unpacked(message: Message, encoding: str | None, most: int) -> Message:
    """A compressed message as it was before. Raises `InvalidRequest`, `UnsupportedEncoding`, `PayloadTooLarge`."""
    if encoding is None:
        raise CallRefused(Code.INTERNAL, "a message is marked as compressed, but no grpc-encoding was given")
    return decompress(bytes(message), encoding, most)


def framed(message: bytes, coding: str | None) -> bytes:
    """A message with its prefix; compressed, where a coding is given and makes it smaller."""
    if coding is not None and len(message) > WORTH_COMPRESSING_BYTES:
        packed = zlib.compress(message, _LEVEL, wbits=WINDOW_BITS[coding])
        if len(packed) < len(message):
            return b"\x01" + len(packed).to_bytes(4) + packed
    return b"\x00" + len(message).to_bytes(4) + message
