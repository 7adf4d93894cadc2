from pathlib import Path

import pytest

from docs import panels
from monitoring.panels import Query


def test_every_panel_shown_is_on_the_dashboard_in_a_unit_that_can_be_drawn() -> None:
    shown = panels._panels()
    assert tuple(panel.title for panel in shown) == panels.SHOWN
    assert {panel.unit for panel in shown} <= panels.FORMATS.keys()
    assert {panel.kind for panel in shown} == {"timeseries"}


def test_a_legend_names_the_labels() -> None:
    query = Query("up", "{{model}} {{variant}}")
    assert panels._legend(query, {"model": "fashion", "variant": "linear"}) == "linear"


def test_a_picture_is_drawn_of_lines_of_different_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "PICTURE", tmp_path / "dashboard.png")
    monkeypatch.setattr(panels, "ROOT", tmp_path)
    lines = {
        title: {"met": [(0.0, 1.0), (1.0, 2.0)], "late": [(1.0, 0.5)], "never": [(0.0, 0.0)]} for title in panels.SHOWN
    }
    panels.draw(lines)
    assert (tmp_path / "dashboard.png").read_bytes().startswith(b"\x89PNG")
