"""From an original and its data to a published family: explore, choose, measure, judge, publish."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from models.compress.dataset import Dataset
from models.compress.errors import CompressError
from models.compress.exploration import MEASURING_SHARE, Candidate, Exploration, Options
from models.compress.frontier import Rating, frontier
from models.compress.measure import Footprint, Quality, Speed, measure_accuracy, measure_footprint, measure_speed
from models.compress.original import Original
from models.compress.report import Attempt, Entry, Report, Sensitivity, write_report
from models.compress.results import host_facts, ratios, version_facts
from models.compress.store import Store, key_of
from models.compress.workbench import Progress
from models.manifest import Budget, Evidence, Family, Variant, digest_of
from models.repository import publish

ORIGINAL = "original"
LEAST_MEASURING_S = 10.0
USUAL_BUDGET = 20.0
"""The family's default latency budget, as a multiple of the original's latency: room for a queue."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The published figures of one variant."""

    quality: Quality
    speed: Speed
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a compression came to."""

    family: Family
    folder: Path
    report: Report


def compress(
    original: Original,
    data: Dataset,
    options: Options,
    *,
    store: Store,
    out: Path,
    command: str,
    labels: tuple[str, ...] | None = None,
    progress: Progress = lambda *_: None,
    spent: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """Explore within the time budget and publish the frontier as the next version of the family in `out`.

    Raises `CompressError` when the caller asks for the impossible or the gates leave no variant, and
    `RepositoryError` when the version cannot be written; then nothing is published.
    """
    exploration = Exploration(original, data, options, store, progress=progress, spent=spent)
    exploration.run()
    chosen = exploration.chosen()
    measured = _measure(chosen, original, data, options, store, exploration.identity, progress)
    entries = _judge(chosen, measured, options)
    report = Report(
        model=original.name,
        reference=ORIGINAL,
        entries=entries,
        dropped=(
            *(Attempt(dropped.name, dropped.reason) for dropped in exploration.found.dropped),
            *_left_out(exploration.found.candidates, chosen),
        ),
        command=command,
        seed=options.seed,
        digest=data.digest,
        rows={"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        sha256=original.sha256,
        gates={"max_accuracy_loss": options.max_accuracy_loss, "max_size_bytes": options.max_size_bytes},
        sensitivity=_sensitivity(exploration),
        spent_s=exploration.found.spent_s,
    )
    if not report.kept():
        raise CompressError(
            "no variant passes the gates: the smallest has "
            f"{min(entry.footprint.size_bytes for entry in entries):,} bytes, and the least accuracy lost is "
            f"{min(_loss(entry, report) for entry in entries if entry.name != ORIGINAL or len(entries) == 1):.4f}; "
            "allow more, or give it more time"
        )
    progress("publishing", 0.0)
    family = _family(original, data, report, chosen, out, labels)
    files = {variant.file: _content(chosen, variant.name) for variant in family.variants}
    with TemporaryDirectory() as folder:
        files |= {path.name: path.read_bytes() for path in write_report(Path(folder), report)}
    return Outcome(family, publish(out, family, files), report)


def next_version(out: Path, name: str) -> str:
    """The version that comes after those a repository has of a family."""
    folder = out / name
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return str(max(taken, default=0) + 1)


def _measure(
    chosen: Sequence[Candidate],
    original: Original,
    data: Dataset,
    options: Options,
    store: Store,
    identity: Sequence[Any],
    progress: Progress,
) -> dict[str, Measured]:
    """The figures to publish: on the test rows, all candidates side by side. Remembered for this host."""
    limit_s = max(options.time_budget_s * MEASURING_SHARE, LEAST_MEASURING_S)
    contents = {candidate.name: candidate.content for candidate in chosen}
    adapter = TypeAdapter(dict[str, Measured])
    digests = {name: digest_of(content) for name, content in contents.items()}
    key = key_of(identity, "measured", digests, host_facts(), limit_s, options.watts_per_core)
    known = store.recall(key)
    if known is not None:
        return adapter.validate_python(known.facts["measured"])
    quality, footprint = {}, {}
    for at, (name, content) in enumerate(contents.items()):
        progress(f"measuring {name}", at / len(contents) / 2)
        quality[name] = measure_accuracy(content, original, data.test)
        footprint[name] = measure_footprint(content, data.test)
    progress("measuring latency", 0.5)
    speed = measure_speed(contents, original, data.test, limit_s=limit_s, watts_per_core=options.watts_per_core)
    measured = {name: Measured(quality[name], speed[name], footprint[name]) for name in contents}
    store.keep(key, {"measured": adapter.dump_python(measured, mode="json")})
    return measured


def _judge(chosen: Sequence[Candidate], measured: Mapping[str, Measured], options: Options) -> tuple[Entry, ...]:
    """Which variants are published: those that pass the gates and that none of them dominates.

    How good they are is judged by the validation rows, so that the figures of the test rows stay what they are
    published as: unseen.
    """
    base = measured[ORIGINAL]
    refused = {}
    for candidate in chosen:
        figures = measured[candidate.name]
        loss = base.quality.accuracy.value - figures.quality.accuracy.value
        if options.max_size_bytes is not None and figures.footprint.size_bytes > options.max_size_bytes:
            refused[candidate.name] = f"{figures.footprint.size_bytes:,} bytes: {options.max_size_bytes:,} are allowed"
        elif options.max_accuracy_loss is not None and loss > options.max_accuracy_loss:
            refused[candidate.name] = f"loses {loss:.4f} of accuracy: {options.max_accuracy_loss:g} is allowed"
    passed = [candidate for candidate in chosen if candidate.name not in refused]
    ratings = [Rating(candidate.score, _costs(measured[candidate.name])) for candidate in passed]
    front = {passed[at].name for at in frontier(ratings)} | ({ORIGINAL} - refused.keys())
    return tuple(
        Entry(
            name=candidate.name,
            recipe=tuple(step.facts() for step in candidate.recipe),
            quality=measured[candidate.name].quality,
            speed=measured[candidate.name].speed,
            footprint=measured[candidate.name].footprint,
            kept=candidate.name in front,
            why=refused.get(candidate.name) or ("" if candidate.name in front else "another is nowhere worse"),
        )
        for candidate in chosen
    )


def _costs(figures: Measured) -> tuple[float, ...]:
    alone = figures.speed.alone
    return (alone[0].ratio.median, alone[-1].ratio.median, figures.footprint.size_bytes, figures.speed.energy_mj)


def _left_out(candidates: Sequence[Candidate], chosen: Sequence[Candidate]) -> list[Attempt]:
    """What was made and not measured further."""
    names = {candidate.name for candidate in chosen}
    return [
        Attempt(
            candidate.name,
            f"not on the frontier: {candidate.score:.4f} on the validation rows, "
            f"{candidate.weight.latency[0]:.2f} of the latency, {candidate.weight.size_bytes:,} bytes",
        )
        for candidate in candidates
        if candidate.name not in names
    ]


def _sensitivity(exploration: Exploration) -> Sensitivity | None:
    layers = exploration.sensitivity()
    if not layers:
        return None
    return Sensitivity(tuple((layer.layer, layer.loss) for layer in layers), "KL divergence in static int8, nats a row")


def _family(
    original: Original,
    data: Dataset,
    report: Report,
    chosen: Sequence[Candidate],
    out: Path,
    labels: tuple[str, ...] | None,
) -> Family:
    base = report.original
    usual_ms = min(1000.0, max(10.0, round(base.latency_ms * USUAL_BUDGET, -1)))
    version = next_version(out, original.name)
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
        variants=tuple(_variant(entry, report, chosen, facts) for entry in report.kept()),
    )


def _variant(entry: Entry, report: Report, chosen: Sequence[Candidate], facts: Mapping[str, Any]) -> Variant:
    content = _content(chosen, entry.name)
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


def _content(chosen: Sequence[Candidate], name: str) -> bytes:
    return next(candidate.content for candidate in chosen if candidate.name == name)


def _loss(entry: Entry, report: Report) -> float:
    return report.original.accuracy - entry.accuracy
