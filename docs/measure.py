"""What the demo family costs on this host, measured several times: `python -m docs.measure`.

Writes docs/img/frontier.json, from which the README's table and docs/img/frontier.png are made. Each repeat
is a `gearshift calibrate` with an empty cache, so the spread is that of whole calibrations.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from docs.blocks import ROOT, code, plain_environment, table
from serving.config import usable_cores

REPEATS = 5
FAMILY = "fashion"
DATA = ROOT / "docs" / "img" / "frontier.json"


def measure(repeats: int = REPEATS) -> dict[str, Any]:
    """Calibrate the demo family that often; each variant's facts with median, least and most of its times."""
    runs = [_calibrated() for _ in range(repeats)]
    families = [next(family for family in run["families"] if family["name"] == FAMILY) for run in runs]
    first = families[0]
    variants = []
    for at, variant in enumerate(first["variants"]):
        seen = [family["variants"][at] for family in families]
        times = [one["ms_at_1"] for one in seen]
        rates = [1e3 * one["knee_rows"] / one["ms_at_knee"] for one in seen]
        variants.append(
            {
                "name": variant["name"],
                "sha256": variant["sha256"],
                "accuracy": variant["accuracy"],
                "samples": variant["evidence"]["samples"],
                "size_bytes": variant["size_bytes"],
                "ms_at_1": _spread(times),
                "rows_per_second_at_knee": _spread(rates),
            }
        )
    return {
        "family": f"{first['name']}/{first['version']}",
        "command": "python -m docs.measure",
        "machine": f"{usable_cores()} cores {runs[0]['processor']}",
        "repeats": repeats,
        "variants": variants,
    }


def load() -> dict[str, Any]:
    """What was measured last."""
    document: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return document


def frontier_table() -> str:
    """The measured family as a Markdown table, most accurate first, with where the figures come from."""
    data = load()
    rows = []
    for variant in sorted(data["variants"], key=lambda v: -v["accuracy"]):
        time, rate = variant["ms_at_1"], variant["rows_per_second_at_knee"]
        rows.append(
            (
                code(variant["name"]),
                f"{variant['accuracy']:.4f}",
                f"{variant['size_bytes'] / 1e3:,.0f} kB",
                f"{time['median']:.3f} ({time['least']:.3f}-{time['most']:.3f})",
                f"{_round(rate['median'])} ({_round(rate['least'])}-{_round(rate['most'])})",
            )
        )
    head = ("variant", "accuracy", "size", "ms, one row", "rows/s a core, best batch")
    samples = data["variants"][0]["samples"]
    return (
        f"{table(head, rows)}\n\n"
        f"Accuracy: top-1 on {samples:,} test images. Times: median (least-most) of {data['repeats']} calibrations on"
        f" {data['machine']}, one thread a batch, the model alone; `{data['command']}`."
    )


def main() -> int:
    """Measure and write."""
    data = measure()
    DATA.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{DATA.relative_to(ROOT)}: written\n")
    return 0


def _calibrated() -> dict[str, Any]:
    """One calibration from nothing, as the command tells it."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli.main", "calibrate", "--json"],
            cwd=ROOT,
            env=plain_environment() | {"GEARSHIFT_MODELS__CACHE_DIR": str(Path(cache))},
            stdout=subprocess.PIPE,
            check=True,
        )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def _round(value: float) -> str:
    """Three significant digits, with thousands separated."""
    return f"{float(f'{value:.3g}'):,.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
