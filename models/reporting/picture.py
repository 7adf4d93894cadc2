"""The look of a report's pictures: their inks, their axes, and how they become files."""

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK, MUTED, FAINT, RULE, MARK = "#1b1f24", "#6b7280", "#b6bcc6", "#e8eaee", "#1f6feb"
"""Text; text that stays behind; what is there for comparison; the grid; what the picture is about."""
DOTS = 150
"""Per inch."""


def blank(width: float, height: float) -> Figure:
    """A white sheet of so many inches, with room for its panels' labels."""
    room = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, hspace=0.04, wspace=0.04)
    figure = Figure(figsize=(width, height), dpi=DOTS, facecolor="white", layout=room)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, description: str = "") -> bytes:
    """The same picture is the same bytes: no version and no time is written into it."""
    metadata = {"Software": None, "Description": description or None}
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata=metadata)
    return file.getvalue()


def style_axes(axes: Any, title: str, across: str, up: str) -> None:
    """Title at the left, quiet labels, a grid behind, and no frame but the line at the bottom."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=8)
    axes.set_xlabel(across, color=MUTED, fontsize=9)
    axes.set_ylabel(up, color=MUTED, fontsize=9)
    axes.grid(visible=True, which="major", color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=8.5, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def plain_numbers(axis: Any) -> None:
    """Plain numbers on a logarithmic axis, at 1, 2 and 5 of each decade where there are few decades."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
