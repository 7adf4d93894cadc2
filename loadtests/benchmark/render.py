"""Results for people: a table on the terminal, and a Markdown page."""

import math

from rich.table import Table

from loadtests.benchmark.results import Cell, Results, Spread, Summary

_COLUMNS = ("server", "conns", "requests/s", "p50 ms", "p99 ms", "CPU us/req", "errors")
_DASH = "-"
_TITLES = {"json": "JSON", "grpc": "gRPC"}


def body_formats(results: Results) -> list[str]:
    """Return the body formats that have samples, in the order they were measured."""
    return list(dict.fromkeys(cell.body_format for cell in results.samples))


def table(results: Results, body_format: str) -> Table:
    """Return the terminal table of one body format, a row for each server and number of connections."""
    shown = Table(title=f"{body_format} bodies: median (min-max)", title_justify="left")
    for column in _COLUMNS:
        shown.add_column(column, justify="left" if column == "server" else "right", no_wrap=True)
    previous = ""
    for cell in _ordered(results, body_format):
        if previous and cell.server != previous:
            shown.add_section()
        name = "" if cell.server == previous else cell.server
        summary = results.summary(cell)
        shown.add_row(name, *_row(cell, summary)[1:], style="red" if summary.errors else None)
        previous = cell.server
    return shown


def markdown(results: Results) -> str:
    """Return the page: how it was measured, on what, one table a body format, and what failed."""
    parts = ["# Benchmark", "", "Made by:", "", "```", results.command, "```", ""]
    if not results.complete:
        parts += ["**The run was interrupted: what follows is a part of it.**", ""]
    settings = results.settings
    parts += [
        _method(results),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_escaped(value)} |" for name, value in results.facts.items()),
        "",
    ]
    for body_format in body_formats(results):
        parts += [
            f"## {_TITLES.get(body_format, body_format.capitalize())} bodies",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            "|---|" + "---:|" * (len(_COLUMNS) - 1),
            *(f"| {' | '.join(_row(cell, results.summary(cell)))} |" for cell in _ordered(results, body_format)),
            "",
        ]
    if results.failures:
        parts += ["## Failed", ""]
        parts += [
            f"- **{failure.server}** (repeat {failure.repeat}): {_escaped(failure.reason.splitlines()[0])}"
            for failure in results.failures
        ]
        parts.append("")
    parts += ["## Servers", ""]
    parts += [f"- **{name}**: {about}" for name, about in settings["servers"].items()]
    return "\n".join(parts) + "\n"


def _method(results: Results) -> str:
    settings = results.settings
    return (
        f"Closed loop on loopback: each connection sends its next request when the last is answered. "
        f"One row a request; bodies of {_sizes(results)}. Median of {settings['repeats']} repeats of "
        f"{settings['duration_s']} s (min-max), servers interleaved, {settings['warmup_s']} s warm-up before each "
        "window. CPU: user + system time of the server's whole process tree a request. Every server's answers "
        "were checked against ONNX Runtime before it was measured."
    )


def _ordered(results: Results, body_format: str) -> list[Cell]:
    place = {name: index for index, name in enumerate(results.settings["servers"])}
    cells = [cell for cell in results.samples if cell.body_format == body_format]
    return sorted(cells, key=lambda cell: (place[cell.server], cell.connections))


def _row(cell: Cell, summary: Summary) -> list[str]:
    return [
        cell.server,
        str(cell.connections),
        _spread(summary.rps, 1.0, 0),
        _spread(summary.p50_s, 1000.0, 2),
        _spread(summary.p99_s, 1000.0, 2),
        _spread(summary.cpu_us, 1.0, 0),
        ", ".join(f"{kind} {count:,}" for kind, count in summary.errors.items()) or _DASH,
    ]


def _spread(spread: Spread, scale: float, digits: int) -> str:
    if math.isnan(spread.median):
        return _DASH
    median, low, high = (f"{value * scale:,.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low}-{high})"


def _sizes(results: Results) -> str:
    sizes = results.settings["body_bytes"]
    return " and ".join(f"{size:,} bytes ({name})" for name, size in sizes.items())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
