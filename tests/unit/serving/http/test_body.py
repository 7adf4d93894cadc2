import pytest
from fastapi import Request

from serving.core.errors import Cancelled, PayloadTooLarge
from serving.http.body import read_body


def asked(*messages: dict[str, object]) -> Request:
    waiting = iter(messages)

    async def receive() -> dict[str, object]:
        return next(waiting)

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def piece(content: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.request", "body": content, "more_body": more}


async def test_all_pieces_are_read() -> None:
    assert await read_body(asked(piece(b"ab", more=True), piece(b"c", more=False)), 3) == b"abc"


async def test_a_body_above_the_limit_is_refused_before_its_end() -> None:
    with pytest.raises(PayloadTooLarge, match="larger than 3 bytes"):
        await read_body(asked(piece(b"ab", more=True), piece(b"cd", more=True)), 3)


async def test_a_caller_who_leaves_is_no_failure_of_ours() -> None:
    with pytest.raises(Cancelled):
        await read_body(asked(piece(b"ab", more=True), {"type": "http.disconnect"}), 3)
