from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.studies.journal import Journal, JournalError, task_keys
from loadtests.study import run_task
from tests.support.durations import durations_of
from tests.support.studies import TINY, cell, task

DONE = task(cell(requests=50))


def test_what_is_added_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "runs.jsonl")
    assert journal.read(["a"]) == {}
    result = run_task(DONE)
    journal.add("a", result)
    journal.add("other", result)
    assert journal.read(["a", "missing"]) == {"a": result}


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text('{"task": "a", "result": {"cell"')
    result = run_task(DONE)
    Journal(file).add("b", result)
    assert Journal(file).read(["a", "b"]) == {"b": result}


def test_a_key_hangs_on_all_that_the_result_hangs_on() -> None:
    slower = replace(TINY, durations=durations_of({"v0": (2, 2, 4, 8), "v1": (10, 20, 40, 80)}))
    tasks = [
        DONE,
        task(cell(requests=50), seed=2),
        task(cell(requests=51)),
        task(cell(requests=50), policies=("look-ahead",)),
        replace(DONE, served=(slower,)),
        replace(DONE, assumptions=replace(DONE.assumptions, noise=False)),
    ]
    assert len(set(task_keys(tasks))) == len(tasks)
    assert task_keys([DONE]) == task_keys([task(cell(requests=50))])


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be read"):
        Journal(tmp_path).read(["a"])
    with pytest.raises(JournalError, match="cannot be written"):
        Journal(tmp_path).add("a", run_task(DONE))
