"""Many cells in a few lines: how much of the room each policy uses, and how often ours uses more."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from loadtests.bootstrap import Interval, mean_interval
from loadtests.studies.results import CellResult, Row
from serving.core.policies.registry import LOOK_AHEAD


@dataclass(frozen=True, slots=True)
class Spread:
    """Over cells, each counting alike."""

    mean: float
    median: float
    least: float
    """The worst cell."""


@dataclass(frozen=True, slots=True)
class Line:
    """One policy over the cells of a group."""

    policy: str
    cells: int
    headroom: Spread | None
    """Over the cells with room; None where there are none."""
    attainment: Spread
    shortfall: Spread
    """Attainment less the best attainable: negative where requests were missed that the smallest variant meets."""
    effective_accuracy: float
    beaten: float | None
    """Share of the cells with room in which look-ahead's headroom is higher. None for look-ahead itself."""
    lead: Interval | None
    """Look-ahead's headroom less this one's: mean over cells, with the interval over paired seeds."""


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that are summed up together."""

    name: str
    cells: int
    with_room: int
    lines: tuple[Line, ...]
    """Those policies that ran in all cells: look-ahead first, then by falling headroom."""

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def summarise(results: Sequence[CellResult]) -> list[Group]:
    """A group for each family, with noise and without, and one of all that have noise if there are several families."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        name = result.cell.family if result.cell.noise else f"{result.cell.family}, no service noise"
        groups.setdefault(name, []).append(result)
    noisy = [result for result in results if result.cell.noise]
    if len({result.cell.family for result in noisy}) > 1:
        groups["all families"] = noisy
    return [_group(name, members) for name, members in groups.items()]


def _group(name: str, cells: Sequence[CellResult]) -> Group:
    first = cells[0]
    common = [row.policy for row in first.rows if all(cell.row(row.policy) for cell in cells)]
    lines = [_line(policy, cells) for policy in common]
    lines.sort(key=lambda line: (line.policy != LOOK_AHEAD, -line.headroom.mean if line.headroom else 0.0))
    return Group(name, len(cells), sum(_has_room(cell) for cell in cells), tuple(lines))


def _line(policy: str, cells: Sequence[CellResult]) -> Line:
    rows = [(cell, row) for cell in cells if (row := cell.row(policy))]
    headrooms = [row.headroom.mean for _, row in rows if row.headroom]
    pairs = [] if policy == LOOK_AHEAD else list(_pairs(cells, policy))
    return Line(
        policy=policy,
        cells=len(rows),
        headroom=_spread(headrooms) if headrooms else None,
        attainment=_spread([row.attainment for _, row in rows]),
        shortfall=_spread([row.attainment - cell.attainable for cell, row in rows]),
        effective_accuracy=fmean(row.effective_accuracy.mean for _, row in rows),
        beaten=fmean(fmean(ours.headrooms) > fmean(theirs.headrooms) for ours, theirs in pairs) if pairs else None,
        lead=mean_interval([_differences(*pair) for pair in pairs]) if pairs else None,
    )


def _pairs(cells: Sequence[CellResult], policy: str) -> list[tuple[Row, Row]]:
    """(look-ahead, policy) of each cell with room."""
    found = []
    for cell in cells:
        ours, theirs = cell.row(LOOK_AHEAD), cell.row(policy)
        if ours and theirs and ours.headrooms and theirs.headrooms:
            found.append((ours, theirs))
    return found


def _differences(ours: Row, theirs: Row) -> list[float]:
    return [left - right for left, right in zip(ours.headrooms, theirs.headrooms, strict=True)]


def _has_room(cell: CellResult) -> bool:
    return any(row.headroom for row in cell.rows)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), median(values), min(values))
