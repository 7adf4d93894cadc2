"""What the verbs share: options, tables, units."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 120
"""Columns of output that goes into a file or a pipe, where there is no terminal to ask."""

out = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else PIPED_WIDTH)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file (TOML). Default: $GEARSHIFT_CONFIG.", show_default=False),
]
ModelsOption = Annotated[
    str | None,
    typer.Option("--models", help="Folder of families, or its URL. Default: the demo families.", show_default=False),
]


def key_headers() -> dict[str, str]:
    """For a gateway that asks for keys. From the environment: a command line can be read by everybody."""
    key = os.environ.get("GEARSHIFT_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def variant_table(name: str, variants: list[dict[str, Any]]) -> Table:
    """A family's variants as `describe.variants_of` tells them."""
    table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, align in (
        ("variant", "left"),
        ("accuracy", "right"),
        ("size", "right"),
        ("ms, 1 row", "right"),
        ("ms, knee", "right"),
        ("knee rows", "right"),
        ("mJ a row", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify=align, no_wrap=True)  # type: ignore[arg-type]  # a literal of rich's
    for entry in sorted(variants, key=lambda e: -e.get("ms_at_1", 0.0)):
        table.add_row(
            entry["name"],
            "?" if entry["accuracy"] is None else f"{entry['accuracy']:.4f}",
            size_text(entry["size_bytes"]),
            _ms(entry.get("ms_at_1")),
            _ms(entry.get("ms_at_knee")),
            str(entry.get("knee_rows", "-")),
            f"{entry['energy_mj_per_row']:.3g}" if "energy_mj_per_row" in entry else "-",
            "frontier" if entry.get("on_frontier") else "",
        )
    return table


def size_text(size: int) -> str:
    """Bytes for people, in decimal units."""
    return f"{size / 1e6:.2f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def milliseconds(text: str) -> float:
    """A duration such as 10ms, 0.5s, 800us or 10 (ms), in milliseconds. Raises `typer.BadParameter`."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(us|ms|s|)\s*", text)
    if match is None:
        raise typer.BadParameter(f"'{text}' is not a duration: write 10ms, 0.5s or 800us")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "": 1.0, "s": 1e3}[match[2]]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
