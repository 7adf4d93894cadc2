import json
import re
from pathlib import Path

import pytest
import yaml

from docs.blocks import ROOT
from monitoring.dashboard import dashboard, dashboard_rows
from monitoring.generate import DASHBOARD, HERE, MADE, RULES, files, main
from monitoring.panels import COLUMNS
from monitoring.rules import alerts, anchor
from serving.config import ServerSettings


@pytest.mark.parametrize("name", list(files()))
def test_the_files_are_what_the_code_makes(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == files()[name], "run python -m monitoring.generate"


def test_no_file_is_left_from_what_the_code_made_once() -> None:
    made = {
        str(path.relative_to(HERE))
        for path in HERE.rglob("*")
        if path.suffix == ".json" or (path.suffix in (".yaml", ".yml") and path.read_text().startswith(MADE))
    }
    assert made == set(files())


def test_check_tells_what_is_stale_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--to", str(tmp_path)]) == 0
    assert main(["--to", str(tmp_path), "--check"]) == 0
    (tmp_path / RULES).write_text("old")
    capsys.readouterr()
    assert main(["--to", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out == f"stale: {RULES}\n"
    assert (tmp_path / RULES).read_text() == "old"


def test_another_objective_and_runbook_reach_rules_and_dashboard(tmp_path: Path) -> None:
    main(["--to", str(tmp_path), "--objective", "0.9", "--runbook", "https://runbook.example/gearshift"])
    rules = (tmp_path / RULES).read_text()
    assert "> 1.44" in rules  # 14.4 times a budget of 0.1
    assert "objective is 90 %" in rules
    assert "https://runbook.example/gearshift#deadlines-are-missed" in rules
    assert "90.00%" in (tmp_path / DASHBOARD).read_text()


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    headings = {anchor(text) for text in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
    for alert in alerts():
        assert anchor(alert.heading) in headings, alert.name
    document = yaml.safe_load((HERE / RULES).read_text(encoding="utf-8"))
    told = [rule for group in document["groups"] for rule in group["rules"] if "alert" in rule]
    assert {rule["alert"] for rule in told} == {alert.name for alert in alerts()}
    for rule in told:
        path, _, fragment = rule["annotations"]["runbook_url"].partition("#")
        assert path == "docs/runbook.md"
        assert fragment in headings
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_do_not_overlap_and_are_told_apart() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    titles = [panel.title for panels in dashboard_rows().values() for panel in panels]
    assert len(set(titles)) == len(titles)


def test_every_panel_can_be_drawn() -> None:
    names = {variable["name"] for variable in dashboard()["templating"]["list"]} | {"__rate_interval"}
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= names
            if panel["type"] == "heatmap":
                assert target["format"] == "heatmap"
                assert "by (le)" in target["expr"]


def test_the_dashboard_is_json_and_stays_the_same_from_run_to_run() -> None:
    assert json.loads(files()[DASHBOARD]) == dashboard()
    assert dashboard() == dashboard()


def test_prometheus_scrapes_the_port_the_gateway_listens_on() -> None:
    (job,) = yaml.safe_load(files()["prometheus.yml"])["scrape_configs"]
    ((target,),) = [config["targets"] for config in job["static_configs"]]
    assert target == f"gateway:{ServerSettings().metrics_port}"
