"""What the pages tell to type works, and answers as the pages say."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest

from docs.blocks import ROOT
from docs.examples import DOCUMENTED_URL, PAGES, Example, examples, folded, run
from docs.generate import cli_commands
from models.manifest import read_manifest
from serving.catalog import demo_repository
from serving.config import Settings

SHELL = re.compile(r"```sh[^\n]*\n(.*?)```", re.DOTALL)
RUNNABLE = [
    pytest.param(example, id=f"{page}-{number}")
    for page in PAGES
    for number, example in enumerate(examples((ROOT / page).read_text(encoding="utf-8")), 1)
]


@pytest.mark.server
@pytest.mark.parametrize("example", RUNNABLE)
def test_the_block_runs_and_answers_as_shown(example: Example, url: str, work_folder: Path) -> None:
    told = run(example.script, url, work_folder)
    assert told.strip()
    if example.answer is not None:
        assert _skeleton(told, example.form) == _skeleton(example.answer, example.form), "run python -m docs.examples"


def test_shown_answers_come_from_the_present_family() -> None:
    family = read_manifest(demo_repository() / "fashion" / "1" / "family.json")
    accuracies = {variant.name: variant.accuracy for variant in family.variants}
    shown = [json.loads(e.answer) for page in PAGES for e in _of(page) if e.form == "json" and e.answer]
    assert shown
    for answer in shown:
        told = answer["parameters"]
        assert told["accuracy"] == accuracies[told["variant"]], "run python -m docs.examples"


def test_every_marked_block_is_found() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert len(_of(page)) == text.count("```sh run")
        assert sum(example.answer is not None for example in _of(page)) == text.count("<!-- answer -->")


def test_blocks_are_marked_on_known_pages_only(page: Path) -> None:
    marked = "```sh run" in page.read_text(encoding="utf-8")
    assert not marked or str(page.relative_to(ROOT)) in PAGES


def test_make_verbs_exist(page: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    used = set(re.findall(r"^make ([a-z-]+)", "\n".join(SHELL.findall(text)), re.MULTILINE))
    used |= set(re.findall(r"`make ([a-z-]+)", text))
    assert used <= verbs


def test_commands_and_options_of_gearshift_exist(page: Path) -> None:
    known = {path: _options(command) for path, command in cli_commands()}
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for block in SHELL.findall(text) for line in block.splitlines()]
    lines += re.findall(r"`(gearshift [^`]+)`", text)
    for line in lines:
        words = shlex.split(line) if "gearshift" in line.split(" ")[0] else []
        if not words:
            continue
        verb = "gearshift"
        for word in words[1:]:
            verb = f"{verb} {word}" if f"{verb} {word}" in known else verb
        assert verb != "gearshift" or words[1].startswith("-"), line
        assert {word for word in words if word.startswith("--")} <= known[verb], line


def test_modules_that_pages_run_exist(page: Path) -> None:
    for module in re.findall(r"python -m ([a-z_.]+)", page.read_text(encoding="utf-8")):
        parts = module.rstrip(".").split(".")
        path = ROOT.joinpath(*parts)
        assert parts == ["pytest"] or path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_the_documented_url_is_the_default_one() -> None:
    server = Settings().server
    assert f"http://{server.host}:{server.http_port}" == DOCUMENTED_URL


@pytest.mark.server
def test_every_parameter_of_a_real_answer_is_documented(url: str) -> None:
    image = {"name": "image", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}
    told = httpx.post(f"{url}/v2/models/fashion/infer", json={"inputs": [image]}).json()
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for name in told["parameters"]:
        assert f"| `{name}` |" in text


@pytest.mark.server
def test_every_documented_path_is_there_and_every_path_documented(url: str) -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(?:GET|POST) (/v2[^`]*)`", text))
    served = set(httpx.get(f"{url}/openapi.json").json()["paths"])
    assert documented == {path for path in served if "/versions/" not in path}


def test_folded_json_is_the_same_json() -> None:
    document = {"a": {"long": ["x" * 60, {"b": "y" * 60}], "numbers": list(range(80))}, "empty": {}, "c": None}
    assert json.loads(folded(document)) == document


def _of(page: str) -> list[Example]:
    return examples((ROOT / page).read_text(encoding="utf-8"))


def _skeleton(answer: str, form: str | None) -> Any:
    """What must not differ between two answers to one question: names and kinds, not times and scores."""
    if form == "text":
        return [line.split()[0] for line in answer.splitlines()]
    return _kinds(json.loads(answer))


def _kinds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _kinds(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_kinds(item) for item in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
