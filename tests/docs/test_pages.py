"""Links resolve, nothing that exists is missing, and nothing is in the pages that does not belong there."""

import re
from pathlib import Path
from typing import get_args

import pytest

from docs import generate
from docs.blocks import ROOT
from serving import config
from serving.codec import budget
from serving.codec.limits import CodecLimits
from serving.core.outcome import Outcome
from serving.core.request import Reason
from serving.http.errors import STATUS
from serving.http.limits import HttpLimits
from serving.metrics import DERIVED, TABLE

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LABEL = re.compile(r"\[([^\]\s]+\.md)\]\(")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"```.*?```", re.DOTALL)
HOSTS = frozenset(
    {
        "127.0.0.1:8000",
        "github.com",
        "keepachangelog.com",
        "semver.org",
        "www.w3.org",
        "collector:4318",
        "wiki.example",
        "cloud.example",
    }
)
"""Whom pages may name. Registries and mirrors change with the place; how packages come is the reader's business."""
ABSOLUTE = re.compile(r"(?<![\w.~*}/:-])/([a-z]+)/[\w.-]+")
ROOTS = frozenset({"v2", "infer"})
"""First parts of paths that are URLs. Any other absolute path is somebody's machine."""


def test_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(CODE.sub("", text)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in {_anchor(heading) for heading in HEADING.findall(found.read_text(encoding="utf-8"))}, (
                target
            )


def test_labels_that_name_a_page_name_a_real_one(page: Path) -> None:
    for label in LABEL.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / label).is_file(), label


def test_only_known_hosts_are_named(page: Path) -> None:
    hosts = set(re.findall(r"https?://([^/\s)`'\"]+)", page.read_text(encoding="utf-8")))
    assert hosts <= HOSTS


def test_no_path_of_a_machine(page: Path) -> None:
    found = {match[0] for match in ABSOLUTE.finditer(page.read_text(encoding="utf-8")) if match[1] not in ROOTS}
    assert not {path for path in found if not path.startswith("/dev/zero")}


@pytest.mark.parametrize(
    ("text", "found"), [("see /home/me/x", True), ("GET /v2/models", False), ("serving/http/x", False)]
)
def test_a_path_of_a_machine_would_be_seen(text: str, *, found: bool) -> None:
    assert any(match[1] not in ROOTS for match in ABSOLUTE.finditer(text)) is found


def test_pages_are_plain_text(page: Path) -> None:
    strange = {character for character in page.read_text(encoding="utf-8") if ord(character) > 0x24F}
    assert not strange


def test_pages_are_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target.partition("#")[0]).resolve()
            if path.is_dir():
                path = path / "README.md"
            if path.suffix == ".md" and path.is_file():
                waiting.append(path)
    assert {*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")} <= seen


def test_decision_records_are_numbered_and_listed() -> None:
    folder = ROOT / "docs" / "adr"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    records = sorted(folder.glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert f"({record.name})" in listed
        assert text.startswith(f"# {int(record.name[:4])}. ")
        assert HEADING.findall(text)[1:] == ["Context", "Decision", "Consequences"]
        assert "\nStatus: " in text


def test_every_outcome_and_reason_is_explained() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    metrics = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    protocol = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for outcome in Outcome:
        for text in (glossary, runbook, metrics):
            assert f"`{outcome}`" in text
    for reason in get_args(Reason):
        for text in (metrics, protocol):
            assert f"`{reason}`" in text


def test_every_status_is_explained() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    for error, status in STATUS.items():
        assert re.search(rf"\| {status} \| \w+ \| `{error.__name__}` \|", protocol), error
        assert re.search(rf"\| [^|]*\b{status}\b", runbook), status
    own = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "serving" / "http").glob("*.py")))
    for status in set(re.findall(r"Refusal\((\d{3})", own)):
        assert f"\n| {status} | " in protocol.partition("The HTTP server itself")[2], status


def test_limits_in_prose_are_those_of_the_code() -> None:
    protocol = " ".join((ROOT / "docs" / "protocol.md").read_text(encoding="utf-8").split())
    codec = CodecLimits()
    assert f"at most {codec.max_tensors} inputs, {codec.max_parameters} parameters" in protocol
    assert f"more than {HttpLimits().max_pipelined} unanswered requests" in protocol
    assert budget.MAX_LATENCY_MS == 3600e3


def test_every_metric_is_used_or_listed_once() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for spec in (*TABLE, *DERIVED):
        assert text.count(f"| `{spec.name}` |") == 1
        assert spec.help in text


def test_queries_name_metrics_and_labels_that_exist() -> None:
    labels = {spec.name: {*spec.labels, "le"} for spec in (*TABLE, *DERIVED)}
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    queries = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    assert len(queries) >= 8
    for query in queries:
        for name, selector in re.findall(r"(gearshift_\w+)(?:\{([^}]*)\})?", query):
            known = labels[re.sub(r"_(bucket|sum|count)$", "", name)]
            assert set(re.findall(r"(\w+)[=!]", selector)) <= known
            assert not re.search(r"_(bucket|sum|count)$", name) or "le" in known
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            names = {re.sub(r"_(bucket|sum|count)$", "", n) for n in re.findall(r"gearshift_\w+", query)}
            assert all(set(grouped.split(", ")) <= labels[name] for name in names)


def test_every_budget_parameter_and_header_is_documented() -> None:
    block = generate.budget_block()
    for header, name in budget.HEADERS.items():
        assert f"`{header.decode()}`" in block
        assert f"| `{name}` |" in block
    assert generate.BUDGET.keys() == set(budget.HEADERS.values())


def test_every_verb_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for path, command in generate.cli_commands():
        part = text.partition(f"## `{path}`\n")[2].partition("\n## ")[0]
        assert part
        for parameter in command.params:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert name in part or name.upper() in part or (parameter.metavar or "?") in part


def test_variables_that_are_not_settings_are_named() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for variable in config.NOT_SETTINGS:
        assert f"`{variable}`" in text


def test_settings_named_in_prose_exist(page: Path) -> None:
    known = {f"{section}.{key}" for section, key in config.setting_names()}
    sections = "|".join(config.Settings.model_fields)
    for name in re.findall(rf"`((?:{sections})\.\w+)`", page.read_text(encoding="utf-8")):
        assert name in known


def test_files_of_the_rooms_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = text.partition("## Rooms\n\n```\n")[2].partition("```")[0]
    room = ROOT
    found = 0
    for line in block.splitlines():
        words = line.split()
        if not line.startswith(" "):
            room = ROOT / words[0]
            assert room.is_dir(), line
            continue
        for word in words:
            if word.endswith((".py", "/")):
                assert (room / word).exists(), line
                found += 1
            else:
                break
    assert found > 30


def test_files_named_in_prose_exist(page: Path) -> None:
    rooms = (ROOT, ROOT / "serving", ROOT / "serving" / "core", ROOT / "deployments")
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)", page.read_text(encoding="utf-8")):
        assert any((room / name).is_file() for room in rooms), name


def test_the_version_is_in_the_changelog() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "([^"]+)"', pyproject, re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")
