"""What one HTTP/2 client may ask of the server."""

from dataclasses import dataclass

from serving.http.sweeps import require_positive, sweep_interval_s


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Bounds per process and per connection. All are positive; times are seconds, and fire up to a sweep late."""

    max_connections: int = 1024
    """Connections open at once; further ones wait in the backlog of the listening socket."""
    max_streams: int = 256
    """Calls of one connection that may be open at once."""
    max_header_bytes: int = 16 * 1024
    """Header block of one call, also after decompression."""
    max_headers: int = 100
    """Header fields of one call."""
    header_timeout_s: float = 5.0
    """From the accept to the end of the first SETTINGS frame, and for a header block that comes in pieces."""
    body_timeout_s: float = 30.0
    """For a whole message, from its first byte; the first one of a call, from the end of the headers."""
    idle_s: float = 60.0
    """A connection without calls is told to go; one with calls that is silent for so long is pinged."""
    write_timeout_s: float = 30.0
    """Longest time for which a client may leave an answer, or a ping, unread."""
    max_age_s: float = 600.0
    """A connection this old is told to go, so that new replicas get their share of those who never leave."""

    def __post_init__(self) -> None:
        require_positive(self)

    @property
    def sweep_interval_s(self) -> float:
        """How often the connections are looked over: 0.5 s, or more often where a timeout is very short."""
        return sweep_interval_s(self.header_timeout_s, self.body_timeout_s, self.idle_s, self.write_timeout_s)
