import json

import numpy as np
import pytest

from loadtests import bench
from loadtests.benchmark.load import LoadResult
from loadtests.benchmark.oracle import Oracle
from loadtests.benchmark.results import Cell, Failure, Sample
from loadtests.benchmark.servers import SERVERS


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run `main` with a runner of which `act(results)` is all it does."""
    monkeypatch.setattr(bench, "mlp_file", lambda folder: folder / "m.onnx")
    rows = np.zeros((1, 784), dtype=np.float32)
    monkeypatch.setattr(Oracle, "of", classmethod(lambda cls, model: cls(rows, rows[:, :10])))

    def start(act, *words):
        class FakeRunner:
            def __init__(self, plan, load, oracle, model, folder, results, watcher):
                self.results = results

            def run(self):
                act(self.results)

        monkeypatch.setattr(bench, "Runner", FakeRunner)
        files = ["--json", str(tmp_path / "b.json"), "--markdown", str(tmp_path / "b.md")]
        code = bench.main([*files, "--work-folder", str(tmp_path / "work"), "--generator", "asyncio", *words])
        return code, json.loads((tmp_path / "b.json").read_text()), (tmp_path / "b.md").read_text()

    return start


def finish(errors=None, failure=None):
    def act(results):
        cell = Cell("fastapi-plain-1", "json", 1)
        results.add(cell, Sample(1, LoadResult(10, 1.0, 0.1, 0.2, errors or {}), 0.1))
        if failure:
            results.failures.append(failure)
        results.complete = True

    return act


def test_a_clean_run_ends_with_0_and_saves_both_files(run, capsys):
    code, saved, page = run(finish(), "--servers", "fastapi-plain-1")
    assert code == 0
    assert saved["complete"] is True
    assert saved["command"].startswith("python -m loadtests.bench --json ")
    assert "| fastapi-plain-1 | 1 | 10 |" in page
    assert "fastapi-plain-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "act", [finish(errors={"status": 3}), finish(failure=Failure("fastapi-plain-1", 1, "ended\nlast words"))]
)
def test_errors_and_failures_end_with_1(run, act):
    assert run(act)[0] == 1


def test_an_interrupt_ends_with_130_and_keeps_what_there_is(run, capsys):
    def interrupted(results):
        finish()(results)
        results.complete = False
        raise KeyboardInterrupt

    code, saved, page = run(interrupted)
    assert code == 130
    assert saved["complete"] is False
    assert len(saved["cells"]) == 1
    assert "interrupted" in page
    assert "interrupted" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["--servers", "nope"], ["--connections", "0"], ["--duration", "1.5"], ["--repeats", "x"], ["--env", "A"], ["-x"]],
)
def test_a_wrong_command_line_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_the_help_names_every_server_and_every_exit_code(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(spec.name in text and spec.about in text for spec in SERVERS)
    for code in (0, 1, 2, 130):
        assert f"\n  {code}  " in text
