import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from loadtests import suite
from loadtests.studies.results import SeedResult
from loadtests.study import Task

SCENARIO = """
name = "few"
requests = 200
[arrivals]
kind = "poisson"
rate = 300
[[classes]]
name = "plain"
model = "fashion"
latency_ms = 20
"""


@pytest.fixture
def few(tmp_path: Path) -> Path:
    file = tmp_path / "few.toml"
    file.write_text(SCENARIO)
    return file


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_a_scenario_gives_a_table_and_a_document(few: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "few.json"
    code, told = run(few, "--policy", "look-ahead", "--seeds", 2, "--jobs", 1, "--no-noise", "--json", file)
    assert code == 0, told
    assert "look-ahead" in told
    assert "fixed:fastest" in told
    found = json.loads(file.read_text())
    assert found["complete"] is True
    (cell,) = found["cells"]
    assert (cell["seeds"], cell["noise"]) == ([1, 2], False)
    assert cell["policies"]["look-ahead"]["attainment"] > 0.9


def test_a_report_is_written(few: Path, tmp_path: Path) -> None:
    code, told = run(few, "--policy", "look-ahead", "--seeds", 1, "--jobs", 1, "--overhead", "--report", tmp_path / "r")
    assert code == 0, told
    assert (tmp_path / "r" / "report.html").is_file()


def test_ctrl_c_keeps_what_is_finished(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_tasks = suite.run_tasks

    def interrupted(tasks: Sequence[Task], jobs: int) -> Iterator[SeedResult]:
        yield from run_tasks(tasks[:2], jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "run_tasks", interrupted)
    file = tmp_path / "few.json"
    code, told = run(few, "--policy", "look-ahead", "--seeds", 5, "--jobs", 1, "--json", file)
    assert code == 130, told
    assert "2 of 5" in told
    found = json.loads(file.read_text())
    assert (found["complete"], found["cells"][0]["seeds"]) == (False, [1, 2])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "one of them"),
        (["few.toml", "--suite", "quick"], "one of them"),
        (["--suite", "huge"], "there is no suite 'huge'"),
        (["--suite", "quick"], "--report FOLDER or --json FILE"),
        (["missing.toml"], "cannot be read"),
    ],
)
def test_a_wrong_command_is_told(arguments: list[str], told: str) -> None:
    code, output = run(*arguments)
    assert code == 2
    assert told in output.replace("│ ", "").replace(" │", "")


def test_wrong_policies_models_and_durations_are_told(few: Path, tmp_path: Path) -> None:
    code, told = run(few, "--policy", "look-ahed")
    assert (code, "did you mean 'look-ahead'" in told) == (2, True)
    code, told = run(few, "--durations", tmp_path / "none.json")
    assert (code, "cannot be read" in told) == (2, True)
    few.write_text(SCENARIO.replace('"fashion"', '"nobody"'))
    code, told = run(few)
    assert (code, "holds no family 'nobody'" in told) == (2, True)


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    file = tmp_path / "scaled.toml"
    file.write_text(SCENARIO + "[fleet]\nworkers = 1\n[autoscaling]\nmax_replicas = 2\n")
    return file


def test_a_scenario_that_scales_compares_scalers(scaled: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "scaled.json"
    options = ("--scaler", "signals", "--scaler", "fixed:2", "--seeds", 2, "--jobs", 1, "--json", file)
    code, told = run(scaled, *options)
    assert code == 0, told
    assert "fixed:2" in told
    found = json.loads(file.read_text())
    assert found["seeds"] == [1, 2]
    assert {row["scaler"] for row in found["scalers"]} == {"signals", "fixed:2"}
    assert all(row["attainment"] > 0.9 for row in found["scalers"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scaler", "magic"), "there is no scaler 'magic'"),
        (("--policy", "look-ahead"), "takes --scaler"),
        (("--report", "r"), "has no --report"),
    ],
)
def test_what_a_scenario_that_scales_cannot_have_is_told(
    scaled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told = run(scaled, *options)
    assert code == 2
    assert message in told


def test_a_scaler_needs_a_scenario_that_scales(few: Path) -> None:
    code, told = run(few, "--scaler", "signals")
    assert code == 2
    assert "[autoscaling]" in told


def test_fleets_have_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "fleets.json"
    code, told = run("--suite", "fleets", "--seeds", 1, "--requests", 100, "--policy", "look-ahead", "--json", file)
    assert code == 0, told
    names = [cell["cell"] for cell in json.loads(file.read_text())["cells"]]
    assert all(name in told for name in names)
    assert "text 1e+06/s 64 over 256, two choices, 10 ms late" in names
