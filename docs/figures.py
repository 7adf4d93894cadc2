"""The accuracy/latency frontier of the demo family, from the last measurement: `python -m docs.figures`."""

import sys
from typing import Any

from docs.blocks import ROOT
from docs.measure import load

PICTURE = ROOT / "docs" / "img" / "frontier.png"
INK, MUTED, MARK = "#1b1f24", "#6b7280", "#1f6feb"
DATA_KEY = "Description"
"""Text chunk of the picture that names the artifacts it shows."""


def artifacts_of(data: dict[str, Any]) -> str:
    """The artifacts of a measurement, in one line: a picture that carries it can be told from a stale one."""
    shown = ", ".join(f"{variant['name']} {variant['sha256'][:12]}" for variant in data["variants"])
    return f"{data['family']}: {shown}"


def draw(data: dict[str, Any]) -> None:
    """Write the picture: time for one row against accuracy, the frontier as steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    points = sorted(data["variants"], key=lambda v: (v["ms_at_1"]["median"], -v["accuracy"]))
    figure, axes = plt.subplots(figsize=(7.2, 3.9), dpi=150, layout="constrained")
    steps = _frontier(points)
    times = [point["ms_at_1"]["median"] for point in steps]
    accuracies = [100 * point["accuracy"] for point in steps]
    end = max(point["ms_at_1"]["most"] for point in points) * 2.2
    axes.plot([*times, end], [*accuracies, accuracies[-1]], drawstyle="steps-post", color=MARK, alpha=0.45, lw=1.4)
    for point in points:
        time = point["ms_at_1"]
        around = [[time["median"] - time["least"]], [time["most"] - time["median"]]]
        on = point in steps
        axes.errorbar(
            time["median"], 100 * point["accuracy"], xerr=around, fmt="o", ms=6, capsize=2.5, lw=1.2,
            color=MARK if on else MUTED, mfc=MARK if on else "white",
        )  # fmt: skip
        # The frontier only rises to the right: up and to the left of it, and below it, there is room.
        axes.annotate(
            point["name"], (time["median"], 100 * point["accuracy"]), xytext=(-6, 6) if on else (0, -15),
            textcoords="offset points", fontsize=8.5, color=INK if on else MUTED, ha="right" if on else "center",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(times[0] / 2.6, end)
    axes.margins(y=0.16)
    axes.set_xlabel("time for one row, ms (log scale), on " + data["machine"], color=INK)
    axes.set_ylabel("accuracy, %", color=INK)
    axes.set_title(
        f"{data['family']}: the variants and their frontier", loc="left", fontsize=11, color=INK, fontweight="bold"
    )
    axes.grid(visible=True, which="major", color="#e5e7eb", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(PICTURE, metadata={DATA_KEY: artifacts_of(data), "Software": None})
    plt.close(figure)


def _frontier(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points no other beats in accuracy at the same or less time; `points` rise in time."""
    kept: list[dict[str, Any]] = []
    for point in points:
        if not kept or point["accuracy"] > kept[-1]["accuracy"]:
            kept.append(point)
    return kept


def main() -> int:
    """Draw the last measurement."""
    draw(load())
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}: written\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
