"""Who may call: keys from a file, compared in a time that tells nothing."""

import hmac
import logging
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from serving.config import ConfigError
from serving.core.errors import Unauthenticated
from serving.ports import Clock

LEAST_CHARACTERS = 16
LOOK_INTERVAL_S = 2.0
"""How soon a changed file counts: a Secret that is mounted changes under a running server."""
_BEARER = b"bearer "

log = logging.getLogger("gearshift.keys")


class KeysError(ConfigError):
    """The file of keys cannot be used; the message says why, and never names a key."""


class ApiKeys:
    """The keys of a file, one a line; blank lines and those that start with # are none."""

    def __init__(self, file: Path, clock: Clock) -> None:
        """Raises `KeysError`."""
        self._file = file
        self._clock = clock
        self._digests = read_keys(file)
        self._seen = _stamp(file)
        self._look_s = clock() + LOOK_INTERVAL_S

    def check(self, sent: bytes | None) -> None:
        """Raise `Unauthenticated` unless what a caller presented is a key."""
        if sent is None:
            raise Unauthenticated("a key is needed: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        self._follow()
        digest = sha256(sent).digest()
        known = False
        for one in self._digests:  # all of them, whichever matches: the time tells nothing of the key or its place
            known |= hmac.compare_digest(one, digest)
        if not known:
            raise Unauthenticated("the key is not known here")

    def _follow(self) -> None:
        """Take over a changed file. One that cannot be used changes nothing, and is told once."""
        now_s = self._clock()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_INTERVAL_S
        stamp = _stamp(self._file)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._digests = read_keys(self._file)
        except KeysError as error:
            log.warning("%s; the keys read before stay valid", error)
        else:
            log.info("keys read again", extra={"file": str(self._file), "keys": len(self._digests)})


def read_keys(file: Path) -> tuple[bytes, ...]:
    """Digests of the keys in a file. Raises `KeysError`."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="ascii").splitlines()]
    except OSError as error:
        raise KeysError(f"file of API keys {file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysError(f"file of API keys {file}: expected ASCII, one key a line") from error
    keys: dict[bytes, None] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        if len(line) < LEAST_CHARACTERS or any(character.isspace() for character in line):
            raise KeysError(
                f"file of API keys {file}, line {number}: expected {LEAST_CHARACTERS} or more characters and no blanks,"
                " such as `openssl rand -hex 32` writes"
            )
        keys[sha256(line.encode()).digest()] = None
    if not keys:
        raise KeysError(f"file of API keys {file}: there is no key in it; without a file, none is asked for")
    return tuple(keys)


def first_key(file: Path) -> str:
    """A key for calls of our own. Raises `KeysError`."""
    read_keys(file)
    lines = (line.strip() for line in file.read_text(encoding="ascii").splitlines())
    return next(line for line in lines if line and not line.startswith("#"))


def presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """What a caller's headers (names in lower case) present as a key; None where they do not.

    `Authorization: Bearer` wins over `X-API-Key`.
    """
    own: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if value[: len(_BEARER)].lower() == _BEARER:
                return value[len(_BEARER) :].strip()
        elif name == b"x-api-key" and own is None:
            own = value.strip()
    return own


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content; Kubernetes puts another file behind the same name."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
