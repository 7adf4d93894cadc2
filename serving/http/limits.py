"""What one client may ask of the HTTP server before it has proved to be one."""

from dataclasses import dataclass

from serving.http.sweeps import require_positive, sweep_interval_s


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds per process and per connection. All are positive; times are seconds.

    uvicorn and httptools have none of these: a socket that says nothing stays open for ever, and a head of
    8 MB or 20,000 header lines is parsed. A timeout fires up to one sweep (`sweep_interval_s`) late.
    """

    max_connections: int = 1024
    """Connections open at once; further ones wait in the backlog of the listening socket."""
    max_header_bytes: int = 16 * 1024
    """Bytes of one request's head: request line, header names and values. Trailers: the same again."""
    max_headers: int = 100
    """Header lines of one request."""
    header_timeout_s: float = 5.0
    """From the accept, or from the first byte of a later request, to the end of the head."""
    body_timeout_s: float = 30.0
    """For a whole body, not counting the time in which the application does not want to read."""
    body_stall_s: float = 5.0
    """Longest pause between two bytes of a body."""
    keep_alive_s: float = 60.0
    """Idle time between two requests of one connection."""
    write_timeout_s: float = 30.0
    """Longest time for which a client may leave bytes of an answer unread."""
    max_pipelined: int = 16
    """Requests of one connection that may be unanswered at once."""

    def __post_init__(self) -> None:
        require_positive(self)

    @property
    def sweep_interval_s(self) -> float:
        """How often the connections are looked over: 0.5 s, or more often where a timeout is very short."""
        return sweep_interval_s(
            self.header_timeout_s, self.body_timeout_s, self.body_stall_s, self.keep_alive_s, self.write_timeout_s
        )
