"""One simulated model: what the schedulers see of it, and how long its batches really take."""

from dataclasses import dataclass

from loadtests.durations import Durations
from models.manifest import Family
from serving.core.budget import RequestBudget, eligible_variants
from serving.core.errors import Infeasible, UnknownModel
from serving.core.fleet import VariantView, view_variants
from serving.core.request import Eligibility, Reason
from serving.core.scheduler import Scheduler

ELEMENT_BYTES = 4
"""Of an input's elements: what FP32 takes."""


@dataclass(frozen=True, slots=True)
class Served:
    """A family as it is simulated."""

    name: str
    variants: tuple[VariantView, ...]
    durations: Durations
    row_bytes: int = ELEMENT_BYTES
    """Input bytes of a row: what a queue bounded in bytes counts."""

    @property
    def watts(self) -> tuple[float, ...]:
        """Power of one worker that runs each variant, as its energy a row implies."""
        return tuple(v.energy_mj_per_row / 1e3 / v.table.seconds(1) for v in self.variants)


def served_family(
    family: Family, durations: Durations, *, batch_overhead_s: float = 0.0, watts_per_core: float = 10.0
) -> Served:
    """The family with the scheduler's view made from its measured medians, as calibration would.

    Only variants with a file are simulated: how long the others take depends on who answers, or on the rows themselves.
    `batch_overhead_s` as the backend has it. Raises `DurationsError` for a variant without durations.
    """
    family = family.model_copy(update={"variants": tuple(v for v in family.variants if v.file)})
    for variant in family.variants:
        durations.of(variant.name)
    profiles = durations.profiles(watts_per_core)
    elements = 0
    for spec in family.inputs:
        count = 1
        for dim in spec.shape[1:]:
            count *= max(1, dim)
        elements += count
    return Served(
        name=family.name,
        variants=view_variants(family, profiles, batch_overhead_s),
        durations=durations,
        row_bytes=elements * ELEMENT_BYTES,
    )


class Eligibilities:
    """One `Eligibility` object for each content, as the lanes of the gateway keep them; each budget is read once."""

    def __init__(self, scheduler: Scheduler) -> None:
        """What budgets allow of its variants, as fast as it believes them to be."""
        self._scheduler = scheduler
        self._revision = scheduler.latency.revision
        self._by_content: dict[tuple[tuple[int, ...], int, Reason], Eligibility] = {}
        # By identity, for a hash of a budget costs more than all the rest; the budget is kept so that its id stays its.
        self._by_budget: dict[tuple[int, int], tuple[RequestBudget, Eligibility | None]] = {}

    def of(self, budget: RequestBudget, rows: int) -> Eligibility | None:
        """What the budget allows; None when no variant can ever meet it."""
        if self._revision != self._scheduler.latency.revision:
            self._revision = self._scheduler.latency.revision
            self._by_budget.clear()
        known = self._by_budget.get((id(budget), rows))
        if known is None:
            known = self._by_budget[id(budget), rows] = budget, self._find(budget, rows)
        return known[1]

    def _find(self, budget: RequestBudget, rows: int) -> Eligibility | None:
        try:
            found = eligible_variants(budget, rows, self._scheduler.variants, "simulated")
        except (Infeasible, UnknownModel):
            return None
        return self._by_content.setdefault((found.variants, found.best, found.reason), found)
