import os
import subprocess
import sys
from pathlib import Path

from serving.http import loadboard
from serving.http.loadboard import LoadBoard


def test_the_busier_holder_is_told(tmp_path: Path) -> None:
    one, two = LoadBoard(tmp_path / "b"), LoadBoard(tmp_path / "b")
    one.post(10.0, 5)
    two.post(10.0, 2)
    assert one.is_busiest(10.5, 5)
    assert not two.is_busiest(10.5, 2)
    assert not two.is_busiest(10.5, 6)  # one more is no reason to wait


def test_what_is_clearly_over_the_mean_is_surplus(tmp_path: Path) -> None:
    boards = [LoadBoard(tmp_path / "b") for _ in range(3)]
    for board, connections in zip(boards, (30, 0, 0), strict=True):
        board.post(10.0, connections)
    assert boards[0].surplus(10.5, 30) == 20
    assert boards[1].surplus(10.5, 0) == 0
    assert boards[0].surplus(12.5, 30) == 0, "the others may be dead"
    for board in boards:
        board.post(13.0, 10)
    assert boards[0].surplus(13.0, 12) == 0, "a little more is no reason to send anybody away"
    assert boards[0].surplus(13.0, 1) == 0


def test_the_silent_and_the_withdrawn_are_not_waited_for(tmp_path: Path) -> None:
    one, two = LoadBoard(tmp_path / "b"), LoadBoard(tmp_path / "b")
    two.post(10.0, 0)
    assert one.is_busiest(11.9, 9)
    assert not one.is_busiest(12.1, 9)
    two.post(13.0, 0)
    two.withdraw()
    assert not one.is_busiest(13.0, 9)


def test_a_slot_is_free_again_when_its_holder_has_closed_or_died(tmp_path: Path) -> None:
    path = tmp_path / "b"
    code = f"import pathlib; from serving.http.loadboard import LoadBoard; LoadBoard(pathlib.Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.cwd())
    assert loadboard._SLOT.unpack_from(path.read_bytes())[2] not in (0, os.getpid())
    after_death, second = LoadBoard(path), LoadBoard(path)
    assert (after_death._slot, second._slot) == (0, 1)
    after_death.close()
    after_death.post(1.0, 1)  # too late, and harmless
    assert LoadBoard(path)._slot == 0


def test_a_full_board_leaves_a_holder_unseen_but_working(tmp_path: Path) -> None:
    boards = [LoadBoard(tmp_path / "b") for _ in range(loadboard._SLOTS + 1)]
    boards[-1].post(1.0, 0)
    assert not boards[0].is_busiest(1.0, 9)
    boards[0].post(1.0, 0)
    assert boards[-1].is_busiest(1.0, 9)
