import ctypes

import pytest

from serving.memory import give_back


def test_the_c_library_is_asked_and_one_that_knows_no_such_thing_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        ctypes, "CDLL", lambda _: type("Libc", (), {"malloc_trim": lambda _self, pad: asked.append(pad)})()
    )
    give_back()
    assert asked == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()
