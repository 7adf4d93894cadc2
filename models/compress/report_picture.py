"""The picture of a compression: the frontier, latency by batch, and which layers are sensitive."""

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

from matplotlib import colormaps
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from models.compress.results import Entry, Report, Sensitivity
from models.reporting.formats import data_size
from models.reporting.picture import FAINT, INK, MARK, MUTED, blank, plain_numbers, png, style_axes

LEAST_AREA, MOST_AREA = 28.0, 420.0
"""Of markers, square points; the largest model has the largest."""
MOST_LAYERS = 18
NAME_LENGTH = 34


def draw_picture(report: Report) -> bytes:
    """The picture as a PNG."""
    figure = blank(11.0, 10.2)
    rows = figure.add_gridspec(2, 2, height_ratios=[1.25, 1.0])
    colours = _colours(report)
    frontier = figure.add_subplot(rows[0, :])
    labels = _draw_frontier(frontier, report, colours)
    batches = figure.add_subplot(rows[1, 0])
    ends = _draw_batches(batches, report, colours)
    if report.sensitivity is not None and report.sensitivity.layers:
        _draw_sensitivity(figure.add_subplot(rows[1, 1]), report.sensitivity)
    else:
        _draw_sizes(figure.add_subplot(rows[1, 1]), report, colours)
    # Where text has room is only known once everything else has its place.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _place(figure, frontier, labels, _AROUND)
    _place(figure, batches, ends, _RIGHT)
    return png(figure, f"{report.model}: {report.digest}")


def _colours(report: Report) -> dict[str, Any]:
    """One colour a variant in all panels, from fast to slow; the original in ink, what was dropped faint."""
    kept = sorted((e for e in report.kept() if e is not report.original), key=lambda entry: entry.latency_ms)
    scale = colormaps["viridis"]
    found = {entry.name: scale(0.82 - 0.72 * (at + 0.5) / len(kept)) for at, entry in enumerate(kept)}
    return {report.reference: INK, **found}


Label = tuple[float, float, str, Any, float, float]
"""x, y, text, colour, font size, and the reach of the marker it stands beside, points."""


def _draw_frontier(axes: Any, report: Report, colours: dict[str, Any]) -> list[Label]:
    shown, hidden = _in_view(report)
    largest = max(entry.footprint.size_bytes for entry in report.entries)
    steps = list(_frontier([entry for entry in shown if entry.kept or entry is report.original]))
    right = max(entry.latency_ms for entry in shown) * 1.6
    axes.plot(
        [*(entry.latency_ms for entry in steps), right],
        [*(100 * entry.accuracy for entry in steps), 100 * steps[-1].accuracy],
        drawstyle="steps-post", color=MARK, alpha=0.28, lw=1.6, zorder=1, solid_joinstyle="round",
    )  # fmt: skip
    labels = []
    for entry in sorted(shown, key=lambda each: each.kept):
        bright = entry.name in colours
        colour = colours.get(entry.name, FAINT)
        low, high = entry.quality.accuracy.interval
        place = (entry.latency_ms, 100 * entry.accuracy)
        area = LEAST_AREA + (MOST_AREA - LEAST_AREA) * entry.footprint.size_bytes / largest
        if bright:
            axes.vlines(place[0], 100 * low, 100 * high, color=colour, lw=1.2, alpha=0.45, zorder=2)
        axes.scatter(
            *place, s=area, color=colour if bright else "white", edgecolors="white" if bright else FAINT, lw=1.1,
            alpha=0.92, zorder=4 if bright else 3, marker="D" if entry is report.original else "o",
        )  # fmt: skip
        text = f"{entry.name} (original)" if entry is report.original and entry.name != "original" else entry.name
        labels.append((*place, text, INK if bright else MUTED, 9.0 if bright else 7.5, sqrt(area) / 2))
    axes.set_xscale("log")
    axes.set_xlim(min(entry.latency_ms for entry in shown) / 2.0, right)
    plain_numbers(axes.xaxis)
    axes.set_ylim(*_limits(shown, report))
    what = "accuracy" if report.original.quality.metric == "top-1" else "agreement with the original"
    style_axes(
        axes,
        f"{_short(report.model)}: what each variant costs and keeps",
        "median time of one row, ms (log scale)",
        what,
    )
    axes.set_ylabel(f"{what}, %, with 95 % interval", color=MUTED, fontsize=9)
    note = f"marker area: file size, largest {data_size(largest)}   ·   hollow: measured and not kept"
    if hidden:
        note += f"   ·   {hidden} below the picture"
    axes.text(1.0, 1.015, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=MUTED)
    return sorted(labels, key=lambda label: -label[4])  # where room is scarce, the kept ones take it


def _in_view(report: Report) -> tuple[list[Entry], int]:
    """The entries shown and how many are too far below the kept ones to be: they would flatten the picture."""
    bright = [entry for entry in report.entries if entry.kept or entry is report.original]
    low = min(entry.quality.accuracy.interval[0] for entry in bright)
    high = max(entry.quality.accuracy.interval[1] for entry in bright)
    floor = low - 0.6 * (high - low)
    shown = [entry for entry in report.entries if entry in bright or entry.accuracy >= floor]
    return shown, len(report.entries) - len(shown)


def _limits(shown: Sequence[Entry], report: Report) -> tuple[float, float]:
    bright = [entry for entry in shown if entry.kept or entry is report.original]
    low = min(min(entry.quality.accuracy.interval[0] for entry in bright), min(entry.accuracy for entry in shown))
    high = max(entry.quality.accuracy.interval[1] for entry in bright)
    room = max(high - low, 0.002) * 0.08
    return 100 * (low - room), 100 * (high + room)


def _frontier(entries: Sequence[Entry]) -> Iterator[Entry]:
    """From the fastest on, those that are more accurate than all that are faster."""
    best = -1.0
    for entry in sorted(entries, key=lambda each: (each.latency_ms, -each.accuracy)):
        if entry.accuracy > best:
            best = entry.accuracy
            yield entry


def _draw_batches(axes: Any, report: Report, colours: dict[str, Any]) -> list[Label]:
    labels: list[Label] = []
    for entry in (*(each for each in report.kept() if each is not report.original), report.original):
        rows = [timing.rows for timing in entry.speed.alone]
        times = [timing.median_s * 1e3 / timing.rows for timing in entry.speed.alone]
        busy = [timing.median_s * 1e3 / timing.rows for timing in entry.speed.busy]
        colour = colours[entry.name]
        axes.plot(rows, times, color=colour, lw=1.8, marker="o", ms=3.8, mec="white", mew=0.6, zorder=3)
        axes.plot(rows, busy, color=colour, lw=1.0, ls=(0, (4, 2.5)), alpha=0.6, zorder=2)
        labels.append((rows[-1], times[-1], entry.name, colour, 8.0, 3.0))
    sizes = sorted({timing.rows for entry in report.entries for timing in entry.speed.alone})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.margins(y=0.1)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlim(sizes[0] / 1.12, sizes[-1] * max(1.6, (sizes[-1] / sizes[0]) ** 0.34))
    plain_numbers(axes.yaxis)
    workers = report.original.speed.workers
    style_axes(axes, "Time a row by batch size", "rows in a batch", "ms a row (log scale)")
    axes.text(
        0.0, 0.015, f"  dashed: {workers} workers busy at once", transform=axes.transAxes, fontsize=8, color=MUTED
    )
    return labels


def _draw_sensitivity(axes: Any, sensitivity: Sensitivity) -> None:
    ranked = sorted(sensitivity.layers, key=lambda layer: -layer[1])[:MOST_LAYERS]
    layers = [layer for layer in sensitivity.layers if layer in ranked][::-1]
    most = max((loss for _, loss in layers), default=0.0)
    shades = [colormaps["YlOrRd"](0.25 + 0.6 * max(0.0, loss) / most) if most > 0 else FAINT for _, loss in layers]
    axes.barh(range(len(layers)), [loss for _, loss in layers], color=shades, height=0.68, zorder=2)
    axes.set_yticks(range(len(layers)), [_short(name) for name, _ in layers], fontsize=7.5, color=INK)
    axes.set_ylim(-0.7, len(layers) - 0.3)
    style_axes(axes, "Layers that mind", f"loss when only this layer is compressed\n{sensitivity.unit}", "")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # No power of ten set apart.
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=False, axis="y")
    left_out = len(sensitivity.layers) - len(layers)
    if left_out:
        note = f"{left_out} less sensitive layers not shown"
        axes.text(0.99, 0.02, note, transform=axes.transAxes, ha="right", fontsize=8, color=MUTED)


def _draw_sizes(axes: Any, report: Report, colours: dict[str, Any]) -> None:
    entries = sorted((each for each in report.entries if each.name in colours), key=lambda e: e.footprint.size_bytes)
    sizes = [entry.footprint.size_bytes / 1e6 for entry in entries]
    axes.barh(range(len(entries)), sizes, color=[colours[entry.name] for entry in entries], height=0.62, zorder=2)
    axes.set_yticks(range(len(entries)), [_short(entry.name) for entry in entries], fontsize=8, color=INK)
    axes.set_ylim(min(-0.7, len(entries) - 4.3), len(entries) - 0.3)  # few bars stay slim
    axes.set_xlim(0, max(sizes) * 1.18)
    for at, entry in enumerate(entries):
        axes.text(sizes[at], at, f"  {data_size(entry.footprint.size_bytes)}", va="center", fontsize=8, color=INK)
    style_axes(axes, "File size", "MB", "")
    axes.grid(visible=False, axis="y")


_AROUND = [
    (-0.7, 0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (0, 1), (0, -1), (1, 0), (-1, 0), (0, 2)
]  # fmt: skip
"""Directions in which a label may stand from its marker, the best first: the frontier rises to the right."""
_RIGHT = [(1, 0), (1, 0.6), (1, -0.6), (1, 1.2), (1, -1.2), (1, 1.8), (1, -1.8), (1, 2.4), (1, -2.4)]


def _place(figure: Any, axes: Any, labels: Sequence[Label], directions: Sequence[tuple[float, float]]) -> None:
    """Write each label where it covers nothing yet; one without such a place is left out, unless in full ink."""
    renderer, dots = figure.canvas.get_renderer(), figure.dpi / 72
    halo = [withStroke(linewidth=2.4, foreground="white")]
    taken = []
    for x, y, _, _, _, reach in labels:
        at, half = axes.transData.transform((x, y)), reach * dots
        taken.append(Bbox.from_extents(at[0] - half, at[1] - half, at[0] + half, at[1] + half))
    for x, y, text, colour, size, reach in labels:
        for across, up in directions:
            offset = (across * (reach + 4), up * (reach + 2) if abs(across) < 1 else up * size)
            drawn = axes.annotate(
                _short(text), (x, y), xytext=offset, textcoords="offset points", fontsize=size, color=colour,
                ha="left" if across > 0 else "right" if across < 0 else "center",
                va="center" if abs(across) == 1 else "bottom" if up > 0 else "top", zorder=5, path_effects=halo,
            )  # fmt: skip
            box = drawn.get_window_extent(renderer)
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and box.y1 <= axes.bbox.y1 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            drawn.remove()
        else:
            if colour != MUTED:
                axes.annotate(
                    _short(text), (x, y), xytext=(reach + 4, 0), textcoords="offset points", fontsize=size,
                    color=colour, va="center", zorder=5, path_effects=halo,
                )  # fmt: skip


def _short(name: str) -> str:
    """A name that fits; its dollars are no formulas."""
    cut = name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH // 2 - 1]}…{name[-NAME_LENGTH // 2 :]}"
    return cut.replace("$", r"\$")
