"""Keys: what is read, who is let in, and how a changed file counts."""

import logging
from pathlib import Path

import pytest

from serving.core.errors import Unauthenticated
from serving.keys import LOOK_INTERVAL_S, ApiKeys, KeysError, first_key, presented, read_keys
from serving.testing import ManualClock

FIRST = "0123456789abcdef"
SECOND = "fedcba9876543210-and-more"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n{FIRST}\n\n  {SECOND}\n")
    return path


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer " + FIRST.encode()),
        (b"authorization", b"bearer  " + SECOND.encode()),
        (b"x-api-key", SECOND.encode()),
    ],
)
def test_every_key_of_the_file_is_let_in(file: Path, header: tuple[bytes, bytes]) -> None:
    ApiKeys(file, ManualClock()).check(presented([(b"host", b"x"), header]))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "a key is needed"),
        ([(b"authorization", b"Basic " + FIRST.encode())], "a key is needed"),
        ([(b"authorization", FIRST.encode())], "a key is needed"),
        ([(b"authorization", b"Bearer ")], "not known"),
        ([(b"authorization", b"Bearer " + FIRST[:-1].encode())], "not known"),
        ([(b"x-api-key", FIRST.encode() + b"0")], "not known"),
        ([(b"x-api-key", b"# of the team")], "not known"),
        ([(b"x-api-key", b"")], "not known"),
        ([(b"x-api-key", b"\xff\x00")], "not known"),
        ([(b"authorization", b"Bearer wrong"), (b"x-api-key", FIRST.encode())], "not known"),
    ],
)
def test_nobody_else_is(file: Path, headers: list[tuple[bytes, bytes]], message: str) -> None:
    with pytest.raises(Unauthenticated, match=message) as refused:
        ApiKeys(file, ManualClock()).check(presented(headers))
    assert FIRST[:8] not in str(refused.value)


def test_a_changed_file_counts_soon(file: Path) -> None:
    clock = ManualClock()
    keys = ApiKeys(file, clock)
    new = "a-new-key-of-some-length"
    file.write_text(new)
    keys.check(FIRST.encode())
    clock.advance(LOOK_INTERVAL_S)
    keys.check(new.encode())
    with pytest.raises(Unauthenticated):
        keys.check(FIRST.encode())


def test_a_file_that_became_unusable_locks_nobody_out(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    keys = ApiKeys(file, clock)
    file.unlink()
    with caplog.at_level(logging.WARNING, "gearshift.keys"):
        for second in (3.0, 6.0, 9.0):
            clock.now_s = second
            keys.check(FIRST.encode())
    (told,) = caplog.records
    assert "stay valid" in told.getMessage()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no key in it"),
        (b"# only a remark\n\n", "there is no key in it"),
        (b"short\n", "line 1: expected 16"),
        (FIRST.encode() + b"\ntwo words of 16 letters\n", "line 2: expected 16"),
        ("schlüssel-mit-umlaut".encode(), "expected ASCII"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(KeysError, match=message):
        read_keys(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot be read: No such file"):
        ApiKeys(tmp_path / "keys", ManualClock())


def test_the_first_key_is_one_that_is_let_in(file: Path) -> None:
    assert first_key(file) == FIRST
    ApiKeys(file, ManualClock()).check(first_key(file).encode())


def test_no_header_is_no_key() -> None:
    assert presented([(b"content-type", b"Bearer x")]) is None
