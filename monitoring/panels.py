"""Pieces of a Grafana dashboard, as plain data (schema 39, Grafana 10 and later)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
HEIGHT = 8
STAT_HEIGHT = 4

Kind = Literal["timeseries", "stat", "heatmap"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and what its lines are called."""

    expression: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture and the question it answers."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str = "short"
    """As Grafana calls it: `percentunit`, `s`, `reqps`, `bytes`."""
    kind: Kind = "timeseries"
    width: int = 8
    stacked: Literal["", "normal", "percent"] = ""
    top: float | None = None
    """Upper end of the axis, where there is a natural one."""
    bottom: float | None = 0.0
    marks: Mapping[str, float] = field(default_factory=dict)
    """Colour -> value from which on it holds; the base is green."""

    @property
    def height(self) -> int:
        """In units of Grafana's grid."""
        return STAT_HEIGHT if self.kind == "stat" else HEIGHT

    def document(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana reads it."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [self._target(query, index) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
        }

    def _target(self, query: Query, index: int) -> dict[str, Any]:
        return {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": query.expression,
            "legendFormat": "{{le}}" if self.kind == "heatmap" else query.legend,
            "format": "heatmap" if self.kind == "heatmap" else "time_series",
            "range": self.kind != "stat",
            "instant": self.kind == "stat",
            "exemplar": query.exemplars,
        }

    def _defaults(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        steps += [{"color": colour, "value": value} for colour, value in self.marks.items()]
        defaults: dict[str, Any] = {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}}
        if self.bottom is not None:
            defaults["min"] = self.bottom
        if self.top is not None:
            defaults["max"] = self.top
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 40 if self.stacked else 8,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": self.stacked or "none", "group": "A"},
                "thresholdsStyle": {"mode": "line" if self.marks else "off"},
            }
        return defaults

    def _options(self) -> dict[str, Any]:
        match self.kind:
            case "stat":
                return {
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                    "colorMode": "value",
                    "graphMode": "none",
                }
            case "heatmap":
                return {
                    "calculate": False,
                    "cellGap": 0,
                    "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5},
                    "yAxis": {"unit": self.unit},
                    "tooltip": {"mode": "single", "showColorScale": True},
                    "exemplars": {"color": "rgba(255,255,255,0.8)"},
                }
            case "timeseries":
                return {
                    "legend": {"displayMode": "list", "placement": "bottom", "calcs": []},
                    "tooltip": {"mode": "multi", "sort": "desc"},
                }


def laid_out(rows: Mapping[str, Sequence[Panel]]) -> list[dict[str, Any]]:
    """Rows of panels, from left to right and from top to bottom."""
    documents: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows.items():
        documents.append({
            "id": len(documents) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        })  # fmt: skip
        y += 1
        x = tallest = 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            documents.append(panel.document(len(documents) + 1, x, y))
            x += panel.width
            tallest = max(tallest, panel.height)
        y += tallest
    return documents
