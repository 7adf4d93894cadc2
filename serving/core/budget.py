"""What a request allows, and which variants that leaves."""

from dataclasses import dataclass
from math import ceil, floor, log10

from models.manifest import Prefer
from serving.core.errors import Infeasible, Unavailable, UnknownModel
from serving.core.fleet import VariantView
from serving.core.request import Eligibility, Reason

ROUNDING = 1e-9
"""Milliseconds from the wire and interpolated times differ in their last bits; no budget should fail on that."""


@dataclass(frozen=True, slots=True)
class RequestBudget:
    """One request's budget, with the family's defaults already filled in."""

    latency_s: float
    min_accuracy: float | None = None
    max_energy_mj: float | None = None
    """Most energy for the whole request, millijoules."""
    prefer: Prefer = "accuracy"
    variant: str | None = None
    """Pinned by name: the caller's word against any choice of ours."""
    priority: int = 0
    """Orders requests of equal deadline; lower goes first (0 is Triton's default)."""


NONE: frozenset[int] = frozenset()


def eligible_variants(
    budget: RequestBudget, rows: int, variants: tuple[VariantView, ...], model: str, away: frozenset[int] = NONE
) -> Eligibility:
    """The variants that can meet the budget with `rows` rows on an idle worker. Those in `away` cannot run now.

    `prefer` = latency or energy leaves exactly one: the least of those the floors allow, and for latency one that
    runs elsewhere only where no other can.
    Raises `UnknownModel` for a pinned variant that does not exist and `Infeasible`, naming the
    nearest budget that can be met, when nothing is left; `Unavailable` when that is only because some are away.
    """
    whole = _eligible(budget, rows, variants, model)
    if away.isdisjoint(whole.variants):
        return whole
    try:
        rest = _eligible(budget, rows, tuple(v for v in variants if v.index not in away), model)
    except (Infeasible, UnknownModel):
        raise Unavailable(
            f"only variant '{variants[whole.best].name}' of model '{model}' meets this budget, and its endpoint does "
            "not answer now: try again later, or ask for less"
        ) from None
    lesser = budget.prefer == "accuracy" and variants[rest.best].accuracy < variants[whole.best].accuracy
    return Eligibility(rest.variants, rest.best, "unavailable" if lesser else whole.reason)


def _eligible(budget: RequestBudget, rows: int, variants: tuple[VariantView, ...], model: str) -> Eligibility:
    """The same where nobody is away."""
    named = [v for v in variants if budget.variant is None or v.name == budget.variant]
    if not named:
        names = ", ".join(v.name for v in variants)
        raise UnknownModel(f"model '{model}' has no variant '{budget.variant}'; it has: {names}")
    frugal = _frugal_enough(budget, rows, _accurate_enough(budget, named, model), model)
    allowed = _fast_enough(budget, rows, frugal, model)
    reason: Reason
    match budget.prefer:
        case "latency":
            allowed, reason = allowed[:1], "prefer_latency"
        case "energy":
            allowed, reason = [min(allowed, key=lambda v: v.energy_mj_per_row)], "prefer_energy"
        case "accuracy":
            top = max(v.accuracy for v in variants)
            reason = "most_accurate" if any(v.accuracy == top for v in allowed) else "budget"
    if budget.variant is not None:
        reason = "pinned"
    best = max(allowed, key=lambda v: v.accuracy)  # of equals the first, which is the cheapest
    return Eligibility(tuple(v.index for v in allowed), best.index, reason)


def _fast_enough(budget: RequestBudget, rows: int, candidates: list[VariantView], model: str) -> list[VariantView]:
    """Those that answer `rows` rows within the latency budget on an idle worker, fastest first."""
    by_speed = sorted(candidates, key=lambda v: (v.elsewhere, v.table.seconds(rows)))
    kept = [v for v in by_speed if v.table.seconds(rows) <= budget.latency_s * (1 + ROUNDING)]
    if not kept:
        quickest = min(candidates, key=lambda v: v.table.seconds(rows))
        raise Infeasible(
            f"model '{model}' cannot answer {rows} row(s) within {budget.latency_s * 1e3:g} ms under this budget: "
            f"the nearest feasible latency_budget_ms is {round_up(quickest.table.seconds(rows) * 1e3)} "
            f"(variant '{quickest.name}')"
        )
    return kept


def _cut(value: float) -> str:
    """Six digits of a share, never above it: a caller who sends it back is not refused again."""
    return f"{floor(value * 1e6) / 1e6:.6f}".rstrip("0").rstrip(".")


def round_up(value: float) -> str:
    """Two significant digits, never below the value: a caller who sends it back is not refused again."""
    step = 10.0 ** (floor(log10(value)) - 1)
    return f"{ceil(value / step) * step:.6g}"


def _accurate_enough(budget: RequestBudget, candidates: list[VariantView], model: str) -> list[VariantView]:
    floor = budget.min_accuracy
    if floor is None:
        return candidates
    known = [v for v in candidates if v.known_accuracy is not None]
    if not known:
        raise Infeasible(f"the accuracy of model '{model}' is not known: min_accuracy cannot be promised")
    kept = [v for v in known if v.accuracy >= floor]
    if not kept:
        best = max(known, key=lambda v: v.accuracy)
        raise Infeasible(
            f"no variant of model '{model}' reaches min_accuracy {floor:g}: "
            f"the nearest feasible is {_cut(best.accuracy)} (variant '{best.name}')"
        )
    return kept


def _frugal_enough(budget: RequestBudget, rows: int, candidates: list[VariantView], model: str) -> list[VariantView]:
    cap = budget.max_energy_mj
    if cap is None:
        return candidates
    kept = [v for v in candidates if v.energy_mj_per_row * rows <= cap]
    if not kept:
        least = min(candidates, key=lambda v: v.energy_mj_per_row)
        raise Infeasible(
            f"no variant of model '{model}' answers {rows} row(s) for {cap:g} mJ: "
            f"the nearest feasible max_energy_mj is "
            f"{round_up(least.energy_mj_per_row * rows)} (variant '{least.name}')"
        )
    return kept
