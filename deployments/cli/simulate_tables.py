"""What `gearshift simulate` prints: a row a policy, of one load or of many."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from loadtests.studies.results import CellResult, Row
from loadtests.studies.summary import Group, Line, Spread
from serving.core.policies.registry import LOOK_AHEAD

CELL_HEADS = (
    "policy", "attain\n%", "served\naccuracy", "effective\naccuracy", "95 %\ninterval", "upper\nbound", "of it\n%",
    "head-\nroom", "p50\nms", "p99\nms", "rejected", "expired", "late", "CPU µs\na req.", "mJ\na req.",
    "decide\np99 µs",
)  # fmt: skip
BRIEFLY = (1, 3, 6, 7, 8, 9, 10, 11, 12, 15)
"""Columns of a load that are told where each load has a line."""
GROUP_HEADS = (
    "policy", "headroom\nmean", "median", "worst", "attain %\nmean", "worst", "worst against\nattainable",
    "effective\naccuracy", "look-ahead\nis better", "its lead\nin headroom", "95 %\ninterval",
)  # fmt: skip


def cell_table(result: CellResult) -> Table:
    """One load, the best policy first."""
    first, last = result.seeds[0], result.seeds[-1]
    title = (
        f"{result.cell.name}: about {result.requests:,} requests a run ({result.budgets:,.0f} latency budgets), seeds "
        f"{first} to {last}; the smallest variants alone attain {100 * result.attainable:.2f} %"
    )
    table = _table(title, CELL_HEADS)
    for row in sorted(result.rows, key=lambda row: -row.effective_accuracy.mean):
        table.add_row(*_cell_row(row, result.upper_bound.mean), style="bold" if row.policy == LOOK_AHEAD else "")
    return table


def group_table(group: Group) -> Table:
    """Many loads, ours first."""
    table = _table(f"{group.name}: {group.cells} loads, {group.with_room} with room above the smallest", GROUP_HEADS)
    for line in group.lines:
        table.add_row(*_group_row(line), style="bold" if line.policy == LOOK_AHEAD else "")
    return table


def cells_table(results: Sequence[CellResult]) -> Table:
    """Many loads that have no mean, a line each: look-ahead on each of them."""
    table = _table(f"{LOOK_AHEAD}, load by load", ("load", *(CELL_HEADS[at] for at in BRIEFLY)))
    for result in results:
        row = result.row(LOOK_AHEAD)
        if row is not None:
            told = _cell_row(row, result.upper_bound.mean)
            table.add_row(result.cell.name, *(told[at] for at in BRIEFLY))
    return table


def _table(title: str, heads: tuple[str, ...]) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at else "left", no_wrap=True, overflow="fold")
    return table


def _cell_row(row: Row, bound: float) -> list[str]:
    effective = row.effective_accuracy
    return [
        row.policy,
        f"{100 * row.attainment:.2f}",
        f"{row.served_accuracy:.4f}",
        f"{effective.mean:.4f}",
        f"{effective.low:.4f}-{effective.high:.4f}",
        f"{bound:.4f}",
        f"{100 * row.efficiency:.2f}",
        "-" if row.headroom is None else f"{row.headroom.mean:.3f}",
        f"{row.p50_ms:.3g}",
        f"{row.p99_ms:.3g}",
        str(row.rejected),
        str(row.expired),
        str(row.late),
        f"{row.cpu_us_per_request:.3g}",
        f"{row.energy_mj_per_request:.3g}",
        f"{row.decision_p99_us:.3g}",
    ]


def _group_row(line: Line) -> list[str]:
    return [
        line.policy,
        *_spread(line.headroom),
        f"{100 * line.attainment.mean:.2f}",
        f"{100 * line.attainment.least:.2f}",
        f"{100 * line.shortfall.least:+.2f}",
        f"{line.effective_accuracy:.4f}",
        "" if line.beaten is None else f"{100 * line.beaten:.0f} %",
        "" if line.lead is None else f"{line.lead.mean:+.3f}",
        "" if line.lead is None else f"{line.lead.low:+.3f}..{line.lead.high:+.3f}",
    ]


def _spread(spread: Spread | None) -> tuple[str, str, str]:
    return ("-", "-", "-") if spread is None else (f"{spread.mean:.3f}", f"{spread.median:.3f}", f"{spread.least:.3f}")
