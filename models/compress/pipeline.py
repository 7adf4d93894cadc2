"""From an original and its data to a published family: explore, choose, measure, judge, publish."""

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from models.compress.dataset import Dataset, Rows
from models.compress.errors import CompressError
from models.compress.exploration import MEASURING_SHARE, Candidate, Dropped, Exploration, Options
from models.compress.family import family_of
from models.compress.frontier import Rating, frontier
from models.compress.measure import Footprint, Quality, Speed, measure_accuracy, measure_footprint, measure_speed
from models.compress.original import Original
from models.compress.report import Attempt, Entry, Report, Sensitivity, write_report
from models.compress.results import host_facts
from models.compress.store import Store, key_of
from models.compress.tempo import Tempo, drawn
from models.compress.workbench import Progress
from models.manifest import Family, digest_of
from models.repository import publish
from models.session import ModelLoadError, ModelRunError

ORIGINAL = "original"
LEAST_MEASURING_S = 10.0
ACCURACY_SHARE = 0.5
"""Part of the measuring time that the test rows may take; the rest is for latency."""
LEAST_TEST_ROWS = 2_000
"""So many are answered by all variants in any case, where there are as many: fewer are no figure to publish."""


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
    failed: tuple[Dropped, ...]
    """Recipes that ended with a defect, each with its traceback: there should be none."""


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
    _require_labels(original, labels)
    _require_place(out)
    exploration = Exploration(original, data, options, store, progress=progress, spent=spent)
    exploration.run()
    chosen = exploration.chosen()
    tested = _tested(chosen, data.test, exploration.tempo, options)
    measured, unfit = _measure(chosen, original, tested, options, store, exploration.identity, progress)
    chosen = [candidate for candidate in chosen if candidate.name in measured]
    entries = _judge(chosen, measured, options)
    report = Report(
        model=original.name,
        reference=ORIGINAL,
        entries=entries,
        dropped=(
            *(Attempt(dropped.name, dropped.reason) for dropped in exploration.found.dropped),
            *(Attempt(name, reason) for name, reason in unfit.items()),
            *_left_out(exploration.found.candidates, measured.keys() | unfit.keys()),
        ),
        command=command,
        seed=options.seed,
        digest=data.digest,
        rows={"train": len(data.train), "validation": exploration.tempo.choosing_rows, "test": len(tested)},
        given={"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        sha256=original.sha256,
        gates={"max_accuracy_loss": options.max_accuracy_loss, "max_size_bytes": options.max_size_bytes},
        sensitivity=_sensitivity(exploration),
        spent_s=exploration.found.spent_s,
    )
    if not report.kept():
        raise CompressError(_nothing_left(report, exploration.found.candidates, options))
    progress("publishing", 0.0)
    contents = {candidate.name: candidate.content for candidate in chosen}
    family = family_of(original, data, report, contents, next_version(out, original.name), labels)
    files = {variant.file: contents[variant.name] for variant in family.variants}
    with TemporaryDirectory() as folder:
        files |= {path.name: path.read_bytes() for path in write_report(Path(folder), report)}
    failed = tuple(dropped for dropped in exploration.found.dropped if dropped.traceback is not None)
    return Outcome(family, publish(out, family, files), report, failed)


def next_version(out: Path, name: str) -> str:
    """The version that comes after those a repository has of a family."""
    folder = out / name
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return str(max((int(name) for name in names if re.fullmatch("[0-9]{1,9}", name)), default=0) + 1)


def _require_labels(original: Original, labels: tuple[str, ...] | None) -> None:
    if labels is None:
        return
    if len(labels) != original.classes:
        raise CompressError(
            f"{len(labels)} labels for {original.classes} classes: name each class, in the model's order"
        )
    if not all(labels) or len(set(labels)) != len(labels):
        raise CompressError("labels name a class each: none is empty, and no two are the same")


def _require_place(out: Path) -> None:
    """What cannot be written to is told before the work, not after it."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise CompressError(f"{out}: cannot be a repository, since {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CompressError(f"{out}: cannot be a repository, since {there} may not be written to; name another folder")


def _measure(
    chosen: Sequence[Candidate],
    original: Original,
    test: Rows,
    options: Options,
    store: Store,
    identity: Sequence[Any],
    progress: Progress,
) -> tuple[dict[str, Measured], dict[str, str]]:
    """The figures to publish, and why some have none: on the test rows, all side by side. Remembered for this host."""
    limit_s, began_s = _measuring_s(options), time.monotonic()
    contents = {candidate.name: candidate.content for candidate in chosen}
    adapter = TypeAdapter(dict[str, Measured])
    digests = {name: digest_of(content) for name, content in contents.items()}
    key = key_of(identity, "measured", digests, host_facts(), limit_s, options.watts_per_core, len(test))
    known = store.recall(key)
    if known is not None:
        return adapter.validate_python(known.facts["measured"]), dict(known.facts["unfit"])
    quality, unfit = {}, {}
    for at, (name, content) in enumerate(contents.items()):
        progress(f"measuring {name}", at / len(contents) / 2)
        try:
            quality[name] = measure_accuracy(content, original, test)
        except (ModelLoadError, ModelRunError) as error:
            unfit[name] = f"fails on the test rows: {error}"
            continue
        if math.isinf(quality[name].kl):
            unfit[name] = "answers some of the test rows with NaN or infinity"
    if ORIGINAL in unfit:
        raise CompressError(f"{original.name}: the model {unfit[ORIGINAL]}; leave out the rows that it cannot answer")
    contents = {name: content for name, content in contents.items() if name not in unfit}
    progress("measuring memory", 0.5)
    with ThreadPoolExecutor(options.threads) as pool:  # Each runs in a process of its own.
        weights = pool.map(lambda content: measure_footprint(content, test), contents.values())
        footprint = dict(zip(contents, weights, strict=True))
    progress("measuring latency", 0.6)
    left_s = max(limit_s - (time.monotonic() - began_s), limit_s * (1 - ACCURACY_SHARE))
    speed = measure_speed(contents, original, test, limit_s=left_s, watts_per_core=options.watts_per_core)
    measured = {name: Measured(quality[name], speed[name], footprint[name]) for name in contents}
    store.keep(key, {"measured": adapter.dump_python(measured, mode="json"), "unfit": unfit})
    return measured, unfit


def _measuring_s(options: Options) -> float:
    return max(options.time_budget_s * MEASURING_SHARE, LEAST_MEASURING_S)


def _tested(chosen: Sequence[Candidate], rows: Rows, tempo: Tempo, options: Options) -> Rows:
    """The rows to measure on: all, or as many as these candidates can answer in their time, drawn at random."""
    row_s = tempo.row_s * sum(candidate.weight.latency[-1] for candidate in chosen)
    fit = int(_measuring_s(options) * ACCURACY_SHARE / row_s) if row_s > 0 else len(rows)
    return drawn(rows, max(fit // 100 * 100, LEAST_TEST_ROWS), options.seed)


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
    ratings = [
        Rating(candidate.score, (*_costs(measured[candidate.name]), candidate.weight.unlikeness))
        for candidate in passed
    ]
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


def _left_out(candidates: Sequence[Candidate], measured: AbstractSet[str]) -> list[Attempt]:
    """What was made and not measured further."""
    return [
        Attempt(
            candidate.name,
            f"not measured, others do as well or a gate is closed to it: {candidate.score:.4f} on the validation rows, "
            f"{candidate.weight.latency[0]:.2f} of the latency, {candidate.weight.size_bytes:,} bytes",
        )
        for candidate in candidates
        if candidate.name not in measured
    ]


def _nothing_left(report: Report, candidates: Sequence[Candidate], options: Options) -> str:
    """What the gates demand, and what comes nearest to it."""
    near = []
    if options.max_size_bytes is not None:
        smallest = min(len(candidate.content) for candidate in candidates)
        near.append(f"{options.max_size_bytes:,} bytes are allowed, and the smallest made has {smallest:,}")
    if options.max_accuracy_loss is not None:
        others = [entry for entry in report.entries if entry.name != ORIGINAL] or list(report.entries)
        least = min(report.original.accuracy - entry.accuracy for entry in others)
        near.append(f"{options.max_accuracy_loss:g} of accuracy may be lost, and the best measured loses {least:.4f}")
    return f"no variant passes the gates: {'; '.join(near)}. Allow more, or give it more time"


def _sensitivity(exploration: Exploration) -> Sensitivity | None:
    layers = exploration.sensitivity()
    if not layers:
        return None
    return Sensitivity(tuple((layer.layer, layer.loss) for layer in layers), "KL divergence in static int8, nats a row")
