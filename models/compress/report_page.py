"""The page of a compression: one HTML file with everything in it, to be read, printed and passed on."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from models.compress.results import Attempt, Entry, Report, in_order, ratios
from models.reporting import page
from models.reporting.formats import count, data_size, milliseconds, percent, points, times

CLOSE = 0.005
"""Accuracy that a variant may lose and still count as equal on the cards: half a point."""
FEW = 12
"""Attempts that are shown as they are; more are folded up by reason."""


def render_page(report: Report, picture: bytes) -> str:
    """The page as text; whatever came from a file or a command line is escaped."""
    kept = report.kept()
    beside = in_order(entry for entry in report.entries if not entry.kept and entry is not report.original)
    shown = kept if report.original.kept else [report.original, *kept]
    alt = f"Accuracy against latency of {len(report.entries)} variants of {report.model}; times by batch size"
    parts = [
        page.figure(picture, alt),
        page.section("The family", _table(report, shown)),
        page.note(_reading(report)),
        page.section("Measured, and not kept", _table(report, beside)) if beside else "",
        page.section("Tried, and dropped", _attempts(report)) if report.dropped else "",
    ]
    return page.render(
        title=f"{report.model}: a family of {count(len(kept), 'variant')}",
        lead=_lead(report),
        cards=_cards(report),
        body="\n".join(filter(None, parts)),
        command=report.command,
        facts=_facts(report),
    )


def _lead(report: Report) -> str:
    tried = len(report.entries) - 1 + len(report.dropped)
    original, rows = report.original, report.original.quality.accuracy.samples
    truth = (
        f"is right on {percent(original.accuracy)} of them"
        if original.quality.metric == "top-1"
        else "is what they are compared with, since the rows have no labels"
    )
    given = report.given.get("test", rows)
    drawn = "" if given == rows else f" (of {given:,}, as many as there was time for)"
    return (
        f"{count(tried, 'compression')} of {report.model} tried. All figures are from {rows:,} rows{drawn} that no "
        f"choice was made by; the original {truth} and takes {milliseconds(original.latency_ms)} a row in "
        f"{data_size(original.footprint.size_bytes)}."
    )


def _cards(report: Report) -> Iterable[str]:
    original = report.original
    others = [entry for entry in report.kept() if entry is not original]
    equal = [entry for entry in others if entry.accuracy >= original.accuracy - CLOSE]
    if equal:
        best = min(equal, key=lambda entry: ratios(entry, original)["latency"] or 1.0)
        yield _card(best, original, "latency", "faster", f"within {100 * CLOSE:g} points of the original")
    if others:
        yield _card(min(others, key=lambda e: ratios(e, original)["latency"] or 1.0), original, "latency", "faster")
        yield _card(min(others, key=lambda e: e.footprint.size_bytes), original, "size", "smaller")


def _card(entry: Entry, original: Entry, what: str, word: str, remark: str = "") -> str:
    factor = 1 / (ratios(entry, original)[what] or 1.0)
    remark = remark or f"{points(entry.accuracy - original.accuracy)} accuracy"
    return page.card(f"{times(factor)} {word}", f"<code>{escape(entry.name)}</code><br>{escape(remark)}")


def _table(report: Report, entries: Sequence[Entry]) -> str:
    metric = "accuracy" if report.original.quality.metric == "top-1" else "agreement"
    source = report.original.speed.energy_source
    energy = [f"mJ a row<br>{escape(source)}"] if source != "none" else []
    heads = ["variant", metric, "against<br>original", "ms, one row", "times<br>faster", "ms, all<br>workers busy"]
    heads += ["file", "memory", *energy]
    return page.table(heads, (_row(report, entry, with_energy=bool(energy)) for entry in entries))


def _row(report: Report, entry: Entry, *, with_energy: bool) -> str:
    original, quality = report.original, entry.quality
    is_original = entry is original
    low, high = quality.accuracy.interval
    alone, busy, found = entry.speed.alone[0], entry.speed.busy[0], ratios(entry, original)
    loss = found["accuracy_loss"] or 0.0
    tone = "good" if loss <= 0 else "bad" if loss > 2 * CLOSE else ""
    about = " &rarr; ".join(escape(_step(step)) for step in entry.recipe) or "the model as it was given"
    why = f"<small>{escape(entry.why)}</small>" if entry.why else ""
    divergence = f"KL {quality.kl:.2g}" if quality.kl < float("inf") else "answers NaN"
    cells = [
        page.prose(f"{page.name(entry.name)}<small>{about}</small>{why}"),
        f"{percent(quality.accuracy.value)}<small>{100 * low:.1f} &ndash; {100 * high:.1f}</small>",
        ""
        if is_original
        else f"{page.toned(tone, points(-loss))}"
        f"<small>agrees {percent(quality.agreement.value)}<br>{divergence}</small>",
        f"{alone.median_s * 1e3:.3g}<small>p95 {alone.p95_s * 1e3:.3g}</small>",
        _faster(alone.ratio.median, alone.ratio.low, alone.ratio.high, is_original=is_original),
        f"{busy.median_s * 1e3:.3g}<small>p95 {busy.p95_s * 1e3:.3g}</small>",
        f"{data_size(entry.footprint.size_bytes)}<small>{data_size(entry.footprint.stored_bytes)} deflated</small>",
        "unknown" if entry.footprint.memory_bytes is None else data_size(entry.footprint.memory_bytes),
        *([f"{entry.speed.energy_mj:.3g}"] if with_energy else []),
    ]
    return page.row(cells, marked=is_original)


def _faster(median: float, low: float, high: float, *, is_original: bool) -> str:
    """The ratio turned round: how many times faster, and the middle half of the turns."""
    if is_original:
        return ""
    return f"{times(1 / median)}<small>{1 / high:.2f} &ndash; {1 / low:.2f}</small>"


def _step(step: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in step.items() if key != "pass" and value not in (None, ()))
    return f"{step.get('pass', 'step')} ({settings})" if settings else str(step.get("pass", "step"))


def _attempts(report: Report) -> str:
    """A table; of many attempts one for each kind of reason, folded up. `report.json` has them all in order."""
    if len(report.dropped) <= FEW:
        return _attempts_table(report.dropped)
    kinds: dict[str, list[Attempt]] = {}
    for attempt in report.dropped:
        kinds.setdefault(attempt.why.partition(":")[0], []).append(attempt)
    return "".join(
        page.folded(f"{kind} ({len(attempts):,})", _attempts_of_a_kind(attempts))
        for kind, attempts in sorted(kinds.items(), key=lambda item: -len(item[1]))
    )


def _attempts_of_a_kind(attempts: Sequence[Attempt]) -> str:
    """Their names alone where nothing else tells them apart."""
    if any(attempt.why.partition(":")[2] for attempt in attempts):
        return _attempts_table(attempts)
    return page.note(", ".join(attempt.name for attempt in attempts))


def _attempts_table(attempts: Sequence[Attempt]) -> str:
    rows = ([page.prose(page.name(attempt.name)), page.prose(escape(attempt.why))] for attempt in attempts)
    return page.table(["recipe", page.prose("why")], map(page.row, rows))


def _reading(report: Report) -> str:
    speed = report.original.speed
    source = {
        "rapl": "Energy is read from the processor's counters, other programs' share included.",
        "estimate": "Energy is an estimate: processor time times the power a busy core is said to draw.",
        "none": "",
    }[speed.energy_source]
    return (
        "Small print: intervals of accuracy are 95 % (Wilson) over draws of the test rows; KL is the mean divergence "
        "of the class probabilities from the original's, nats. Times are medians of single runs with the session that "
        f"serves, one core a batch; \u201cbusy\u201d is with {speed.workers} batches at once. Each speed-up is the "
        f"median of {speed.turns} turns in which the variant ran between two runs of the original, with the middle "
        "half of the turns below it, so that it can differ a little from the quotient of the times shown. Memory is "
        f"what loading and running the variant adds to a process. {source}"
    )


def _facts(report: Report) -> Mapping[str, str]:
    host = report.host
    gates = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report.gates.items() if value is not None)
    return {
        "measured on": f"{host.get('processor', 'unknown')}, {host.get('cores', '?')} cores, "
        f"{data_size(int(host.get('memory_bytes', 0)))} of memory, {host.get('system', '')}",
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "rows": ", ".join(_rows(report, name) for name in report.rows),
        "data (SHA-256)": report.digest,
        "original (SHA-256)": report.sha256,
        "seed": str(report.seed),
        "demanded": gates or "nothing",
        "search": "" if report.spent_s is None else f"{report.spent_s:,.0f} s of work",
    }


def _rows(report: Report, name: str) -> str:
    """How many of a share's rows were used, and of how many, where there was no time for all."""
    used = report.rows[name]
    given = report.given.get(name, used)
    return f"{used:,} {name}" if used == given else f"{used:,} of {given:,} {name}"
