"""The page of a study: one HTML file with everything in it, to be read, printed and passed on."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean

from loadtests.bootstrap import Interval
from loadtests.studies.document import Study
from loadtests.studies.results import CellResult, Row
from loadtests.studies.summary import Group, Line, Spread
from models.reporting import page
from models.reporting.formats import count, percent
from serving.core.policies.registry import LOOK_AHEAD

WHAT_IS_SEEN = "attainment, effective accuracy and headroom of each policy"

READING = (
    "Attainment is the share of rows answered within their budget; what was refused, dropped or late counts as missed. "
    "Effective accuracy is the mean accuracy over all rows, missed ones counting 0. The upper bound is what a "
    "scheduler that knew every arrival ahead could not pass; headroom is how much of the way from always serving the "
    "smallest variant (0) to that bound (1) a policy goes, and falls below 0 where it does worse than the smallest. "
    "With service noise the bound is made of median durations and is a yardstick rather than a proof. Intervals are "
    "95 %, resampled over seeds; all policies met the same requests. Decision times are those of the machine that "
    "simulated."
)


def render_page(study: Study, pictures: Mapping[str, bytes]) -> str:
    """The page as text, with the pictures in it; whatever came from a file or a command line is escaped."""
    single = len(study.results) == 1
    parts = [
        *(page.figure(picture, f"{name}: {WHAT_IS_SEEN}") for name, picture in pictures.items()),
        *(map(_cell_section, study.results) if single else map(_group_section, study.groups)),
        page.note(READING),
        page.section("What was simulated", f"<p>{escape(_simulated(study))}</p>"),
        page.folded("Every cell", _every_cell(study.results)),
    ]
    return page.render(
        title=study.title,
        lead=_lead(study),
        cards=_cards(study),
        body="\n".join(parts),
        command=study.command,
        facts=study.provenance,
        sheet=page.LANDSCAPE,
    )


def _lead(study: Study) -> str:
    policies = {row.policy for result in study.results for row in result.rows}
    seeds = max(len(result.seeds) for result in study.results)
    text = f"{count(len(policies), 'policy', 'policies')} on {count(len(study.results), 'load')}"
    text += f", {count(seeds, 'seed')} each, the same requests for every policy."
    return text if study.complete else f"{text} The run was stopped early: this is what had been finished."


def _cards(study: Study) -> Iterable[str]:
    groups = study.groups[-1:] if len(study.results) == 1 else [g for g in study.groups if "noise" not in g.name]
    for group in groups[:2]:
        ours = next((line for line in group.lines if line.policy == LOOK_AHEAD), None)
        if ours is None or ours.headroom is None:
            continue
        yield _card(f"{ours.headroom.mean:.2f}", f"of the headroom used by look-ahead, {group.name}, mean of the loads")
        yield _card(
            percent(ours.attainment.mean),
            f"of rows in time, {group.name}; worst load {percent(ours.attainment.least)}",
        )
        others = [line for line in group.lines if line.headroom and line.policy != LOOK_AHEAD]
        if others:
            best = max(others, key=lambda line: line.headroom.mean if line.headroom else 0.0)
            used = best.headroom.mean if best.headroom else 0.0
            yield _card(f"{used:.2f}", f"by the best of the {len(others)} others, {best.policy}")


def _card(figure: str, text: str) -> str:
    return page.card(figure, escape(text))


def _group_section(group: Group) -> str:
    heads = ("policy", "headroom<br>mean", "median", "worst", "attainment<br>mean", "worst",
             "worst against<br>attainable", "effective<br>accuracy", "loads where<br>look-ahead<br>does better",
             "its lead in<br>headroom")  # fmt: skip
    return page.section(f"{group.name}: {count(group.cells, 'load')}", page.table(heads, map(_group_row, group.lines)))


def _group_row(line: Line) -> str:
    cells = [
        page.name(line.policy),
        *_spread(line.headroom),
        percent(line.attainment.mean),
        percent(line.attainment.least),
        _toned(100 * line.shortfall.least, f"{100 * line.shortfall.least:+.2f}"),
        f"{line.effective_accuracy:.4f}",
        "" if line.beaten is None else f"{100 * line.beaten:.0f} %",
        "" if line.lead is None else f"{line.lead.mean:+.3f}<small>{_interval(line.lead, '+.3f')}</small>",
    ]
    return page.row(cells, marked=line.policy == LOOK_AHEAD)


def _cell_section(result: CellResult) -> str:
    heads = ("policy", "attainment", "served<br>accuracy", "effective<br>accuracy", "of the<br>bound", "headroom",
             "p50 ms", "p99 ms", "rejected", "expired", "late", "CPU &micro;s<br>a request", "mJ<br>a request",
             "decision<br>p99 &micro;s")  # fmt: skip
    rows = sorted(result.rows, key=lambda row: -row.effective_accuracy.mean)
    bound = f"<p>No scheduler can pass an effective accuracy of {result.upper_bound.mean:.4f}.</p>"
    return page.section(result.cell.name, bound + page.table(heads, map(_cell_row, rows)))


def _cell_row(row: Row) -> str:
    headroom = "no room" if row.headroom is None else _with_interval(row.headroom, ".3f")
    cells = [
        page.name(row.policy),
        percent(row.attainment),
        f"{row.served_accuracy:.4f}",
        _with_interval(row.effective_accuracy, ".4f"),
        percent(row.efficiency),
        headroom,
        f"{row.p50_ms:.3g}",
        f"{row.p99_ms:.3g}",
        f"{row.rejected:,}",
        f"{row.expired:,}",
        f"{row.late:,}",
        f"{row.cpu_us_per_request:.3g}",
        f"{row.energy_mj_per_request:.3g}",
        f"{row.decision_p99_us:.3g}",
    ]
    return page.row(cells, marked=row.policy == LOOK_AHEAD)


def _every_cell(results: Sequence[CellResult]) -> str:
    heads = ("load", "requests<br>a run", "rows a<br>request", "budgets<br>spanned", "seeds", "smallest<br>attains",
             "upper<br>bound", "look-ahead<br>attainment", "effective", "headroom", "best other",
             "headroom")  # fmt: skip
    return page.table(heads, map(_one_cell, results))


def _one_cell(result: CellResult) -> str:
    ours = result.row(LOOK_AHEAD)
    others = [row for row in result.rows if row.policy != LOOK_AHEAD]
    best = max(others, key=lambda row: row.effective_accuracy.mean, default=None)
    cells = [
        escape(result.cell.name),
        f"{result.requests:,}",
        f"{fmean(entry.mean_rows for entry in result.cell.scenario.classes):.3g}",
        f"{result.budgets:.0f}",
        str(len(result.seeds)),
        percent(result.attainable),
        f"{result.upper_bound.mean:.4f}",
        percent(ours.attainment) if ours else "",
        f"{ours.effective_accuracy.mean:.4f}" if ours else "",
        f"{ours.headroom.mean:.3f}" if ours and ours.headroom else "",
        escape(best.policy) if best else "",
        f"{best.headroom.mean:.3f}" if best and best.headroom else "",
    ]
    return page.row(cells)


def _simulated(study: Study) -> str:
    shortest = min(study.results, key=lambda result: result.budgets)
    longest = max(study.results, key=lambda result: result.budgets)
    total = sum(result.requests * len(result.seeds) * len(result.rows) for result in study.results)
    return (
        f"{total:,} requests in all. A run lasts from {shortest.budgets:.0f} latency budgets ({shortest.cell.name}) to "
        f"{longest.budgets:,.0f} ({longest.cell.name}). At high rates a budget holds thousands of rows: there the "
        "requests of a grid have several rows, runs are cut by their number of requests, and the phases of a changing "
        "load keep their shares. The first requests find empty queues and schedulers that know no load yet; those of "
        "the first five budgets, at most a fifth of a run, are not counted. The schedulers are those that serve; the "
        "workers are a model of them that draws from measured durations"
        f"{'' if study.overhead else ', and the gateway itself takes no time'}."
    )


def _spread(spread: Spread | None) -> tuple[str, str, str]:
    if spread is None:
        return ("no room", "", "")
    return (f"{spread.mean:.3f}", f"{spread.median:.3f}", _toned(spread.least, f"{spread.least:.3f}"))


def _toned(value: float, text: str) -> str:
    return page.toned("bad" if value < -1 else "", text)


def _with_interval(interval: Interval, digits: str) -> str:
    return f"{interval.mean:{digits}}<small>{_interval(interval, digits)}</small>"


def _interval(interval: Interval, digits: str) -> str:
    return f"{interval.low:{digits}} &ndash; {interval.high:{digits}}"
