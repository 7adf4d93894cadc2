"""The table of compression techniques in docs/compression.md, from what `python -m docs.techniques` measured."""

import json
from collections.abc import Mapping
from typing import Any

from docs.blocks import ROOT, code, table

DATA = ROOT / "docs" / "img" / "techniques.json"
COMMAND = "python -m docs.techniques"


def load() -> dict[str, Any]:
    """What was measured last."""
    document: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return document


def techniques_table() -> str:
    """A table for each reference model, what did not apply to it below, and how all of it was measured."""
    data = load()
    return "\n\n".join([*(_reference(reference) for reference in data["references"]), _method(data)])


def _reference(reference: Mapping[str, Any]) -> str:
    head = ("pass", "variant", "accuracy", "size", "time, 1 row", "time, 16 rows", "made in")
    rows = [_row(variant) for variant in reference["variants"]]
    dropped = "; ".join(f"{code(one['pass'])}, {one['why']}" for one in reference["inapplicable"])
    counts = reference["rows"]
    parts = [
        f"**{reference['about']}.** {counts['train']:,} rows to learn from, {counts['test']:,} to measure on.",
        table(head, rows),
    ]
    return "\n\n".join([*parts, *([f"Nothing to do here: {dropped}."] if dropped else [])])


def _row(variant: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = variant["interval"]
    return (
        code(variant["pass"]) if variant["pass"] else "",
        code(variant["name"]),
        f"{variant['accuracy']:.3f} ({low:.3f}-{high:.3f})",
        f"{variant['size_bytes'] / 1e3:,.0f} kB, {variant['size_ratio']:.0%}",
        _ratio(variant["latency"].get("1")),
        _ratio(variant["latency"].get("16")),
        f"{variant['seconds']:.0f} s" if variant["pass"] else "",
    )


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return "not measured"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _method(data: Mapping[str, Any]) -> str:
    turns = " and ".join(str(turns) for turns in sorted({reference["turns"] for reference in data["references"]}))
    return (
        "Accuracy: top-1 on rows that no pass saw, with its 95 % interval. Size: with the share of the original's."
        f" Time: as a multiple of the original's, median (middle half) of {turns} turns between runs of the original,"
        " one thread, the model alone; the row of the original shows the noise."
        f" ONNX Runtime {data['onnxruntime']}, {data['machine']}; `{data['command']}`. Passes that train were given"
        " few rows and epochs, so that all of it takes minutes: a real run gives them more."
    )
