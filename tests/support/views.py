"""Families and requests as the core sees them, built by hand or drawn by hypothesis.

Times are whole milliseconds underneath, so that a counterexample can be read and worked out on paper.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from serving.core import scheduler as scheduler_module
from serving.core.budget import RequestBudget, eligible_variants
from serving.core.errors import Infeasible
from serving.core.fleet import VariantView
from serving.core.latency import LatencyModel, LatencyTable
from serving.core.lookahead import LookAhead, LookAheadSettings
from serving.core.request import Eligibility, Reason, Request
from serving.core.scheduler import Scheduler, SchedulerOptions

SIZES = (1, 2, 4, 8)


def view(
    index: int,
    accuracy: float | None,
    ms: Sequence[float],
    *,
    rows: Sequence[int] = SIZES,
    most: int = 8,
    energy_mj: float = 0.0,
    knee_rows: int | None = None,
) -> VariantView:
    """A variant that takes `ms[i]` milliseconds for `rows[i]` rows."""
    table = LatencyTable(tuple(rows)[: len(ms)], [value / 1e3 for value in ms])
    knee = table.knee_rows(0.0, most) if knee_rows is None else knee_rows
    return VariantView(index, f"v{index}", accuracy, table, knee, energy_mj)


def small_and_large() -> tuple[VariantView, VariantView]:
    """The family most tests use: 1 ms at accuracy 0.6, and 10 ms at 0.9; rows of a batch cost the same again."""
    return view(0, 0.6, (1, 2, 4, 8), knee_rows=4), view(1, 0.9, (10, 20, 40, 80), knee_rows=4)


def choice(*variants: int, best: int | None = None, reason: Reason = "most_accurate") -> Eligibility:
    """What a budget allows, cheapest first; the last is the best unless said otherwise."""
    return Eligibility(variants, variants[-1] if best is None else best, reason)


def request(
    deadline_ms: float,
    allowed: Eligibility,
    *,
    rows: int = 1,
    arrival_ms: float = 0.0,
    priority: int = 0,
    group: str | None = None,
    size_bytes: int = 0,
) -> Request:
    """A request whose times are given in milliseconds."""
    return Request(
        rows=rows,
        arrival_s=arrival_ms / 1e3,
        deadline_s=deadline_ms / 1e3,
        eligibility=allowed,
        priority=priority,
        group=group,
        size_bytes=size_bytes,
    )


def exact_model(variants: Iterable[VariantView]) -> LatencyModel:
    """A latency model that is never in doubt: every batch takes what the table says."""
    views = list(variants)
    elsewhere = [variant.index for variant in views if variant.elsewhere]
    return LatencyModel([variant.table for variant in views], prior_residuals=(1.0,), elsewhere=elsewhere)


def scheduler_of(
    variants: tuple[VariantView, ...],
    *,
    exact: bool = False,
    settings: LookAheadSettings | None = None,
    options: SchedulerOptions | None = None,
) -> Scheduler:
    """The production scheduler with the look-ahead policy; `exact` takes the doubt out of its predictions."""
    with pytest.MonkeyPatch.context() as patch:
        if exact:
            patch.setattr(scheduler_module, "latency_model", exact_model)
        return Scheduler(variants, lambda views, latency: LookAhead(views, latency, settings), options)


@dataclass(frozen=True)
class Arrival:
    """One request of a drawn workload."""

    at_s: float
    rows: int
    budget: RequestBudget
    group: str | None = None
    size_bytes: int = 0
    cancel_after_s: float | None = None


class Classes:
    """One `Eligibility` object for each content, as the lanes of the gateway keep them."""

    def __init__(self, variants: tuple[VariantView, ...]) -> None:
        self._variants = variants
        self._known: dict[tuple[tuple[int, ...], int, Reason], Eligibility] = {}

    def of(self, arrival: Arrival) -> Eligibility | None:
        """What the arrival's budget allows; None when no variant can meet it."""
        try:
            found = eligible_variants(arrival.budget, arrival.rows, self._variants, "drawn")
        except Infeasible:
            return None
        return self._known.setdefault((found.variants, found.best, found.reason), found)


@st.composite
def families(draw: st.DrawFn, most: int = 4) -> tuple[VariantView, ...]:
    """One to `most` variants: dearer ones are usually, but not always, more accurate."""
    views = []
    for index in range(draw(st.integers(1, most))):
        per_row = draw(st.integers(1, 12))
        steps = draw(st.lists(st.integers(0, draw(st.sampled_from((1, 4, 4 * per_row)))), min_size=3, max_size=3))
        ms = [per_row, per_row + steps[0], per_row + sum(steps[:2]), per_row + sum(steps)]
        views.append(
            view(
                index,
                draw(st.integers(40, 99)) / 100,
                ms,
                energy_mj=float(draw(st.integers(0, 9))),
                knee_rows=draw(st.integers(1, 8)),
            )
        )
    return tuple(views)


@st.composite
def budgets(draw: st.DrawFn, prefer: bool = True) -> RequestBudget:
    """Budgets from hardly feasible to generous, with and without floors."""
    return RequestBudget(
        latency_s=draw(st.integers(1, draw(st.sampled_from((20, 120))))) / 1e3,
        min_accuracy=draw(st.none() | st.integers(40, 99).map(lambda percent: percent / 100)),
        max_energy_mj=draw(st.none() | st.integers(0, 60).map(float)),
        prefer=draw(st.sampled_from(("accuracy", "accuracy", "latency", "energy"))) if prefer else "accuracy",
        priority=draw(st.integers(0, 2)),
    )


@st.composite
def workloads(draw: st.DrawFn, most: int = 30, cancels: bool = False) -> list[Arrival]:
    """Arrivals in the order of their times; a few kinds of requests, each drawn often enough to share batches."""
    kinds = draw(st.lists(budgets(), min_size=1, max_size=4))
    groups = draw(st.sampled_from(((None,), ("a", "b"))))
    rows = draw(st.sampled_from((1, 3, 10)))
    longest_gap_ms = draw(st.sampled_from((0, 1, 3, 6)))
    at_ms = 0
    found = []
    for _ in range(draw(st.integers(1, most))):
        at_ms += draw(st.integers(0, longest_gap_ms))
        found.append(
            Arrival(
                at_s=at_ms / 1e3,
                rows=draw(st.integers(1, rows)),
                budget=draw(st.sampled_from(kinds)),
                group=draw(st.sampled_from(groups)),
                size_bytes=draw(st.integers(0, 100)),
                cancel_after_s=draw(st.none() | st.integers(0, 30).map(lambda ms: ms / 1e3)) if cancels else None,
            )
        )
    return found
