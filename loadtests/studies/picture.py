"""The pictures of a study: headroom over the grid, and every policy against the load."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from statistics import fmean
from types import MappingProxyType
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from loadtests.studies.document import Study
from loadtests.studies.lineup import SMALLEST
from loadtests.studies.results import CellResult, Row
from models.reporting.picture import FAINT, INK, MARK, MUTED, blank, plain_numbers, png, style_axes
from serving.core.policies.registry import EARLY_DROP, LOOK_AHEAD

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "clipper": "#c2410c",
        "bentoml": "#b45309",
        "infaas": "#7c3aed",
        "proteus": "#0f766e",
        "slackfit": "#be185d",
        "slackfit-queue": "#db7093",
        "max-batch": "#4d7c0f",
        "max-accuracy": "#0369a1",
    }
)
"""By rule; variants served alone are faint."""


def draw_pictures(study: Study) -> dict[str, bytes]:
    """PNG pictures by name: one a family with a grid of steady loads, else one a cell that stands alone."""
    if len(study.results) == 1:
        return {"simulation": png(_draw_cell(study.results[0]))}
    pictures = {}
    for family in dict.fromkeys(result.cell.family for result in study.results):
        steady = [each for each in study.results if each.cell.family == family and each.cell.kind == "steady"]
        noisy = [each for each in steady if each.cell.noise]
        if steady:
            pictures[family] = png(_draw_grid(family, noisy or steady))
    return pictures


def _draw_grid(family: str, cells: Sequence[CellResult]) -> Figure:
    figure = blank(11.0, 12.4)
    rows = figure.add_gridspec(3, 6, height_ratios=[1.15, 1.0, 1.0])
    best = _best_other(cells)
    maps = [
        (f"look-ahead: headroom, {family}", lambda cell: _headroom(cell.row(LOOK_AHEAD))),
        (f"best other: {best}", lambda cell: _headroom(cell.row(best))),
        ("look-ahead less the best of each load", _lead),
    ]
    for at, (title, value) in enumerate(maps):
        _draw_map(figure.add_subplot(rows[0, 2 * at : 2 * at + 2]), title, cells, value, first=at == 0)
    burst = _middle(sorted({cell.cell.cv2 or 1.0 for cell in cells}))
    line = sorted((cell for cell in cells if (cell.cell.cv2 or 1.0) == burst), key=lambda cell: cell.cell.load or 0.0)
    above, below = figure.add_subplot(rows[1, :]), figure.add_subplot(rows[2, :])
    _draw_lines(above, f"Attainment against load, CV² of the gaps {burst:g}", line, "attainment")
    _draw_lines(below, f"Effective accuracy against load, CV² of the gaps {burst:g}", line, "effective")
    bounds = [cell.upper_bound.mean for cell in line]
    below.plot([cell.cell.load or 0.0 for cell in line], bounds, color=INK, lw=1.4, ls=(0, (5, 2)), zorder=6)
    lowest = min(fmean(cell.attainable for cell in line), 1.0)
    above.set_ylim(max(-0.02, 0.6 * lowest), 1.02)
    _zoom(below, line)
    handles, labels = _legend(line)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _draw_map(axes: Any, title: str, cells: Sequence[CellResult], value: Any, *, first: bool) -> None:
    loads = sorted({cell.cell.load or 0.0 for cell in cells})
    bursts = sorted({cell.cell.cv2 or 1.0 for cell in cells})
    lead = value is _lead
    norm = TwoSlopeNorm(0.0, -0.5, 0.5) if lead else TwoSlopeNorm(0.5, -0.2, 1.0)
    scale = colormaps["RdBu"] if lead else colormaps["YlGnBu"]
    axes.set_xlim(-0.5, len(bursts) - 0.5)
    axes.set_ylim(-0.5, len(loads) - 0.5)
    for cell in cells:
        x, y = bursts.index(cell.cell.cv2 or 1.0), loads.index(cell.cell.load or 0.0)
        found = value(cell)
        shade = (1.0, 1.0, 1.0) if found is None else scale(min(1.0, max(0.0, float(norm(found)))))[:3]
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=shade, edgecolor="white", lw=1.5))
        dark = found is not None and fmean(shade) < 0.55
        text = "-" if found is None else f"{found:+.2f}" if lead else f"{found:.2f}" if found > -10 else f"{found:.0f}"
        axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.set_xticks(range(len(bursts)), [f"{each:g}" for each in bursts])
    axes.set_yticks(range(len(loads)), [f"{each:g}" for each in loads] if first else [""] * len(loads))
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold", pad=8)
    axes.set_xlabel("CV² of the gaps", color=MUTED, fontsize=9)
    axes.set_ylabel("load, of the smallest variant's capacity" if first else "", color=MUTED, fontsize=9)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_lines(axes: Any, title: str, line: Sequence[CellResult], what: str) -> None:
    loads = [cell.cell.load or 0.0 for cell in line]
    for policy, stroke in _styles(line):
        rows = [cell.row(policy) for cell in line]
        values = [row.attainment if what == "attainment" else row.effective_accuracy.mean for row in rows if row]
        if len(values) == len(loads):
            axes.plot(loads, values, **stroke)
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    style_axes(axes, title, "load, of the smallest variant's capacity", "")


def _draw_cell(result: CellResult) -> Figure:
    """One load: what each policy answers in time, and how well."""
    figure = blank(11.0, 1.8 + 0.34 * len(result.rows))
    left, right = figure.subplots(1, 2, sharey=True)
    rows = sorted(result.rows, key=lambda row: row.effective_accuracy.mean)
    places = range(len(rows))
    colours = [MARK if row.policy == LOOK_AHEAD else FAINT for row in rows]
    left.barh(places, [100 * row.attainment for row in rows], color=colours, height=0.66, zorder=2)
    left.set_yticks(places, [row.policy for row in rows])
    left.set_xlim(0, 100)
    effective = [row.effective_accuracy for row in rows]
    spread = [[each.mean - each.low for each in effective], [each.high - each.mean for each in effective]]
    right.barh(places, [each.mean for each in effective], color=colours, height=0.66, zorder=2)
    right.errorbar([each.mean for each in effective], places, xerr=spread, fmt="none", ecolor=INK, lw=1.0, zorder=3)
    right.axvline(result.upper_bound.mean, color=INK, lw=1.4, ls=(0, (5, 2)), zorder=4)
    for at, row in enumerate(rows):
        left.text(1.0, at, f"{100 * row.attainment:.2f}", va="center", fontsize=8, color=INK, zorder=4)
        right.text(0.005, at, f"{row.effective_accuracy.mean:.4f}", va="center", fontsize=8, color=INK, zorder=4)
    style_axes(left, f"{result.cell.name}: answered in time", "attainment, %", "")
    style_axes(right, "How well, over all rows", "effective accuracy; dashed: no scheduler can pass", "")
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
    return figure


def _styles(line: Sequence[CellResult]) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in line[0].rows:
        plain = row.policy.removesuffix(EARLY_DROP)
        rule = plain.partition(":")[0]
        if row.policy == LOOK_AHEAD:
            yield row.policy, {"color": MARK, "lw": 2.8, "zorder": 8, "marker": "o", "ms": 4.5, "mec": "white"}
        elif row.policy == SMALLEST:
            yield row.policy, {"color": INK, "lw": 1.6, "ls": ":", "zorder": 6}
        else:
            published = plain == row.policy and rule != "fixed"
            yield (
                row.policy,
                {
                    "color": COLOURS.get(rule, FAINT),
                    "lw": 1.2,
                    "ls": (0, (3, 1.6)) if published else "-",
                    "alpha": 0.85,
                    "zorder": 3 if rule == "fixed" else 4,
                },
            )


def _legend(line: Sequence[CellResult]) -> tuple[list[Line2D], list[str]]:
    """One entry a rule: as published dashed, with early drop in one stroke."""
    seen: dict[str, dict[str, Any]] = {}
    for policy, style in _styles(line):
        rule = policy.removesuffix(EARLY_DROP).partition(":")[0]
        name = {LOOK_AHEAD: LOOK_AHEAD, SMALLEST: "the smallest variant alone"}.get(policy, rule)
        name = "another variant alone" if name == "fixed" else name
        if name not in seen or style.get("ls") == "-":
            seen[name] = style
    seen["upper bound"] = {"color": INK, "lw": 1.4, "ls": (0, (5, 2))}
    seen["as published, without early drop"] = {"color": MUTED, "lw": 1.2, "ls": (0, (3, 1.6))}
    return [Line2D([], [], **style) for style in seen.values()], list(seen)


def _zoom(axes: Any, line: Sequence[CellResult]) -> None:
    """From a little below the smallest variant, or a look-ahead that is worse, to the bound; others are cut off."""
    smallest = [row.effective_accuracy.mean for cell in line if (row := cell.row(SMALLEST))]
    ours = [row.effective_accuracy.mean for cell in line if (row := cell.row(LOOK_AHEAD))]
    low, high = min(smallest + ours), max(cell.upper_bound.mean for cell in line)
    room = max(high - low, 0.002)
    axes.set_ylim(low - 0.5 * room, high + 0.06 * room)


def _best_other(cells: Sequence[CellResult]) -> str:
    """The policy besides ours and the reference with the highest mean headroom."""
    names = [row.policy for row in cells[0].rows if row.policy not in (LOOK_AHEAD, SMALLEST)]

    def mean(name: str) -> float:
        found = [value for cell in cells if (value := _headroom(cell.row(name))) is not None]
        return fmean(found) if found else -inf

    return max(names, key=mean, default=SMALLEST)


def _headroom(row: Row | None) -> float | None:
    return row.headroom.mean if row is not None and row.headroom is not None else None


def _lead(cell: CellResult) -> float | None:
    """Look-ahead less the best of all others, chosen afterwards for this very load."""
    ours = _headroom(cell.row(LOOK_AHEAD))
    others = [value for row in cell.rows if row.policy != LOOK_AHEAD and (value := _headroom(row)) is not None]
    return None if ours is None or not others else ours - max(others)


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2]
