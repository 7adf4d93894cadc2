"""Some panels of the dashboard, drawn from what a real Prometheus saw of a real gateway: `python -m docs.panels`.

Needs `prometheus` (Debian's package of that name) and a minute and a half. The gateway serves the demo family; its
callers wait for each answer, a few at first, then many, then few again. The queries are the dashboard's own.
"""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from math import isnan
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import orjson
import yaml
from matplotlib import pyplot as plt

from docs.blocks import ROOT
from loadtests.benchmark.closed_loop import closed_loop
from loadtests.benchmark.running import running
from loadtests.benchmark.servers import ServerSpec, free_place
from loadtests.benchmark.wire import Payload
from monitoring.dashboard import dashboard_rows
from monitoring.generate import prometheus
from monitoring.panels import Panel, Query

PICTURE = ROOT / "docs" / "img" / "dashboard.png"
SHOWN = (
    "Traffic by outcome", "Variant mix", "Effective accuracy and accuracy of the answers", "Quantiles", "Workers busy",
    "Chosen for load",
)  # fmt: skip
PHASES = ((2, 25), (24, 25), (2, 25))
"""(callers, seconds)."""
BUDGET_MS = 100
SCRAPE_S = 1
WINDOW = "5s"
PATIENCE_S = 30.0
INK, GRID = "#1b1f24", "#e5e7eb"
COLOURS = ("#1f6feb", "#e8912d", "#8250df", "#0f9d8f", "#bf3989", "#9a6700", "#57606a", "#54aeff", "#f2cc60", "#a475f9")
OUTCOMES = {"met": "#2da44e", "late": "#e8912d", "expired": "#bf8700", "rejected": "#cf222e", "failed": "#82071e"}
"""Those that mean the same everywhere have colours of their own."""
FORMATS = {"percentunit": (100.0, "%"), "s": (1e3, "ms"), "reqps": (1.0, "/s"), "percent": (1.0, "share, %")}
"""Grafana's unit -> factor and name on the axis."""


def main() -> int:
    """Serve, load, look, draw."""
    binary = shutil.which("prometheus")
    if binary is None:
        sys.stderr.write("prometheus is not installed: apt-get install prometheus\n")
        return 1
    spec = ServerSpec(
        "gateway",
        "the demo family",
        (
            "{python}", "-m", "deployments.cli.main", "serve", "--engine", "inprocess", "--http-port", "{port}",
            "--metrics-port", "{metrics_port}", "--grpc-port", "off",
        ),
        start_timeout_s=120.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gearshift-panels-") as name:
        folder = Path(name)
        place = free_place(folder)
        settings = {"GEARSHIFT_ENGINE__RUNTIME_DIR": str(folder / "run")}
        with (
            running(spec, place, folder, settings),
            _watching(binary, folder, place.metrics_port, place.grpc_port) as client,
        ):
            started_s = time.time()
            for callers, seconds in PHASES:
                url = f"http://127.0.0.1:{place.port}/v2/models/fashion/infer"
                asyncio.run(closed_loop(url, _payload(), callers, seconds, 10.0))
            draw({panel.title: _lines(client, panel, started_s) for panel in _panels()})
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}: written\n")
    return 0


def draw(lines: Mapping[str, Mapping[str, list[tuple[float, float]]]]) -> None:
    """Write the picture: `lines` by panel and legend, as (seconds since the start, value)."""
    mpl.use("Agg")
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.4), dpi=110, layout="constrained")
    for axis, panel in zip(axes.flat, _panels(), strict=True):
        factor, unit = FORMATS[panel.unit]
        found = {name: points for name, points in lines[panel.title].items() if any(value for _, value in points)}
        colours = [OUTCOMES.get(name, colour) for name, colour in zip(found, COLOURS * 4, strict=False)]
        times = sorted({at for points in found.values() for at, _ in points})
        if panel.stacked:
            values = [[dict(points).get(at, 0.0) for at in times] for points in found.values()]
            if panel.stacked == "percent":
                sums = [sum(column) or 1.0 for column in zip(*values, strict=True)]
                values = [[100 * value / total for value, total in zip(row, sums, strict=True)] for row in values]
            axis.stackplot(times, values, labels=list(found), colors=colours, alpha=0.75)
        else:
            for colour, (name, points) in zip(colours, found.items(), strict=True):
                axis.plot([at for at, _ in points], [factor * value for _, value in points], label=name, color=colour)
        axis.set_title(f"{panel.title} ({unit})", loc="left", fontsize=8.5, color=INK, fontweight="bold")
        axis.grid(visible=True, color=GRID, lw=0.8)
        axis.set_xlim(0, sum(seconds for _, seconds in PHASES))
        if panel.bottom is not None:
            axis.set_ylim(bottom=0)
        axis.legend(fontsize=7, ncols=3, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1))
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.savefig(PICTURE, metadata={"Software": None})
    plt.close(figure)


def _panels() -> list[Panel]:
    by_title = {panel.title: panel for panels in dashboard_rows().values() for panel in panels}
    return [by_title[title] for title in SHOWN]


def _payload() -> Payload:
    image = {"name": "image", "shape": [1, 28, 28], "datatype": "UINT8", "data": [7] * 784}
    document = {"inputs": [image], "parameters": {"latency_budget_ms": BUDGET_MS}}
    return Payload(orjson.dumps(document), {"Content-Type": "application/json"})


@contextlib.contextmanager
def _watching(binary: str, folder: Path, scraped: int, port: int) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes the gateway every second."""
    config = prometheus() | {"global": {"scrape_interval": f"{SCRAPE_S}s"}, "rule_files": []}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{scraped}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        binary, f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with (
        subprocess.Popen(command) as process,  # noqa: S603 - our own words
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        try:
            _wait_ready(client)
            yield client
        finally:
            process.terminate()


def _wait_ready(client: httpx.Client) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_s:
        with contextlib.suppress(httpx.HTTPError):
            if client.get("/-/ready").status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise RuntimeError(f"prometheus is not ready after {PATIENCE_S:g} s")


def _lines(client: httpx.Client, panel: Panel, started_s: float) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for query in panel.queries:
        expression = query.expression
        for variable, value in {"$__rate_interval": WINDOW, "$job": ".*", "$model": "fashion"}.items():
            expression = expression.replace(variable, value)
        parameters: dict[str, Any] = {"query": expression, "start": started_s, "end": time.time(), "step": SCRAPE_S}
        answer = client.get("/api/v1/query_range", params=parameters).raise_for_status().json()
        for series in answer["data"]["result"]:
            points = [(float(at) - started_s, float(value)) for at, value in series["values"]]
            lines[_legend(query, series["metric"])] = [(at, value) for at, value in points if not isnan(value)]
    return lines


def _legend(query: Query, labels: Mapping[str, str]) -> str:
    text = query.legend
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text.removeprefix("fashion ")


if __name__ == "__main__":
    raise SystemExit(main())
