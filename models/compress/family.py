"""The manifest of a compressed family: what was made, how, and how good each variant was found to be."""

from collections.abc import Mapping
from typing import Any

from models.compress.dataset import Dataset
from models.compress.original import Original
from models.compress.results import Entry, Report, ratios, version_facts
from models.manifest import Budget, Evidence, Family, Variant, digest_of

USUAL_BUDGET = 20.0
"""The default latency budget as a multiple of the original's latency: room for a queue."""


def family_of(
    original: Original,
    data: Dataset,
    report: Report,
    contents: Mapping[str, bytes],
    version: str,
    labels: tuple[str, ...] | None,
) -> Family:
    """The manifest of what a report says is kept; `contents` are the variants' files by name."""
    base = report.original
    usual_ms = min(1000.0, max(10.0, round(base.latency_ms * USUAL_BUDGET, -1)))
    facts = {
        "original_sha256": original.sha256,
        "data_sha256": data.digest,
        "seed": report.seed,
        "command": report.command,
        "host": dict(report.host),
        "versions": dict(version_facts()),
    }
    return Family(
        name=original.name,
        version=version,
        description=f"{len(report.kept())} variants of {original.name}, made by gearshift compress.",
        inputs=original.inputs,
        outputs=(original.output.model_copy(update={"labels": labels}),),
        default_budget=Budget(latency_ms=usual_ms),
        variants=tuple(_variant(entry, report, contents[entry.name], facts) for entry in report.kept()),
    )


def _variant(entry: Entry, report: Report, content: bytes, facts: Mapping[str, Any]) -> Variant:
    right = "labels" if entry.quality.metric == "top-1" else "the original's answers"
    return Variant(
        name=entry.name,
        file=f"{entry.name}.onnx",
        sha256=digest_of(content),
        size_bytes=len(content),
        accuracy=entry.accuracy,
        evidence=Evidence(
            metric=entry.quality.metric,
            dataset=f"rows held out of the data of SHA-256 {report.digest[:12]}, against {right}",
            samples=entry.quality.accuracy.samples,
            command=report.command,
        ),
        recipe={
            "steps": [dict(step) for step in entry.recipe],
            "accuracy_interval": list(entry.quality.accuracy.interval),
            "ratios": ratios(entry, report.original),
            **facts,
        },
    )
