"""The figures as a table: one line a load, means over its seeds."""

from collections.abc import Callable, Sequence
from statistics import fmean

from rich.table import Table

from loadtests.clairvoyant.study import Compared, Rungs

COLUMNS = ("load", "seeds", "look-ahead", "clairvoyant", "ceiling", "look-ahead, same ends", "clairvoyant, same ends")


def table_of(results: Sequence[Compared]) -> Table:
    """Headroom of each load: with free ends as a share of the fluid bound's, with the same ends of the ceiling's."""
    table = Table(
        *COLUMNS, title="Headroom: 0 is the smallest variant; 1 the fluid bound, with the same ends the ceiling"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    by_cell: dict[str, list[Compared]] = {}
    for result in results:
        by_cell.setdefault(result.cell, []).append(result)
    lines = [headrooms(each) for each in by_cell.values()]
    for (name, each), line in zip(by_cell.items(), lines, strict=True):
        table.add_row(name, str(len(each)), *map(_told, line))
    table.add_section()
    columns = list(zip(*lines, strict=True))
    table.add_row("mean", "", *(_told(_mean(column)) for column in columns))
    return table


def headrooms(seeds: Sequence[Compared]) -> tuple[float | None, ...]:
    """The numbers of one load, a column each; None where there is no room between the smallest variant and the bound.

    The gain is averaged over the seeds, and divided by the room averaged over the seeds, as studies do.
    """
    free = [each.free_ends for each in seeds]
    same = [each.same_ends for each in seeds]
    return (
        _headroom(free, lambda rungs: rungs.look_ahead, lambda rungs: rungs.fluid or rungs.ceiling),
        _headroom(free, lambda rungs: rungs.clairvoyant, lambda rungs: rungs.fluid or rungs.ceiling),
        _headroom(free, lambda rungs: rungs.ceiling, lambda rungs: rungs.fluid or rungs.ceiling),
        _headroom(same, lambda rungs: rungs.look_ahead, lambda rungs: rungs.ceiling),
        _headroom(same, lambda rungs: rungs.clairvoyant, lambda rungs: rungs.ceiling),
    )


LEAST_ROOM = 0.0005
"""Accuracy between the smallest variant and the bound: a share of less says nothing."""


def _headroom(seeds: Sequence[Rungs], value: Callable[[Rungs], float], bound: Callable[[Rungs], float]) -> float | None:
    room = fmean(bound(rungs) - rungs.smallest for rungs in seeds)
    return fmean(value(rungs) - rungs.smallest for rungs in seeds) / room if room >= LEAST_ROOM else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
