"""The load grid: which scenarios a suite runs on each family.

Loads are fractions of what all workers do with the smallest variant. A family of compressed models spans two orders
of magnitude in cost, so they are spaced evenly in the logarithm: accurate variants are full long before small ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from loadtests.scenario import Scenario
from loadtests.simulation.served import Served
from loadtests.studies.shorten import expected_requests, resized
from loadtests.workload import capacity_rows_s

Kind = Literal["steady", "step", "ramp", "mixed", "fleet", "scenario"]

BUDGET_MS: Mapping[str, float] = MappingProxyType({"fashion": 20.0, "text": 20.0})
"""Latency budget of the demo families in the grid; of others, the family's default budget."""
OVERLOADS = (1.0, 1.15, 1.3)
LONGEST = 4.0
"""Most times that a run near or above the capacity is longer than others."""
START = 0.5
"""Where steps and ramps start, as a share of the load at which the most accurate variant is full."""
STEP_FACTOR, STEP_PEAK = 10.0, 0.9
RAMP_PEAK = 1.1
MIXED_CV2 = 2.0
_CHANGING = ("step", "ramp")
"""They come near the capacity, or pass it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One scenario, with or without service noise."""

    name: str
    family: str
    kind: Kind
    scenario: Scenario
    noise: bool = True
    load: float | None = None
    """Of the smallest variant's capacity, where it is steady."""
    cv2: float | None = None
    """Squared coefficient of variation of the gaps, where it is steady."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What is crossed with what."""

    loads: tuple[float, ...]
    cv2: tuple[float, ...]
    calm_cv2: tuple[float, ...]
    """Burstiness of the cells that are also run without service noise."""
    mixed_loads: tuple[float, ...]
    """Of the load at which the most accurate variant is full."""
    budgets: float
    """Latency budgets a run should last: what is queued, learnt and forgotten goes by the budget. Near and above the
    capacity it is up to `LONGEST` times as many, of as many more requests."""
    least: int
    most: int
    """Requests of a run, whatever its budgets say."""
    most_rows: int
    """Where one row a request would be more requests than `most`, requests have up to so many: a family's smallest
    variants do hundreds of thousands of rows a second, which nobody sends one by one."""


def log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` (>= 2) numbers from `low` to `high`, each the same factor above the last; three digits."""
    step = (high / low) ** (1 / (count - 1))
    return tuple(float(f"{low * step**at:.3g}") for at in range(count))


GRIDS: Mapping[str, Grid] = MappingProxyType(
    {
        "full": Grid(
            loads=(*log_spaced(0.002, 0.9, 8), *OVERLOADS),
            cv2=(1, 2, 4, 8),
            calm_cv2=(1, 8),
            mixed_loads=(0.25, 0.5, 1.0),
            budgets=20,
            least=4000,
            most=40_000,
            most_rows=128,
        ),
        "quick": Grid(
            loads=(0.002, 0.02, 0.2, 0.6, 0.9, 1.15),
            cv2=(1, 8),
            calm_cv2=(1, 8),
            mixed_loads=(0.5,),
            budgets=15,
            least=1500,
            most=20_000,
            most_rows=128,
        ),
    }
)
"""Suites by name."""


def grid_cells(grid: Grid, family: Served, budget_ms: float, workers: int) -> list[Cell]:
    """The cells of one family on that many workers."""
    capacity = {family.name: capacity_rows_s(family.variants, workers)}
    best = max(family.variants, key=lambda view: view.accuracy)
    full_at = capacity_rows_s((best,), workers) / capacity[family.name]
    usual_s = grid.budgets * budget_ms / 1e3
    cells = []
    for kind, name, arrivals in _arrivals(grid, full_at, usual_s):
        longer = LONGEST if kind in _CHANGING else _longer(arrivals["load"])
        lasts_s, most = usual_s * longer, round(grid.most * longer)
        mixed = _mixed(family, budget_ms) if kind == "mixed" else None
        scenario = _scenario(kind, lasts_s, arrivals, mixed or _plain(family, budget_ms, 1), workers)
        rows = 1
        while mixed is None and rows < grid.most_rows and expected_requests(scenario, capacity) > most:
            rows *= 2
            scenario = _scenario(kind, lasts_s, arrivals, _plain(family, budget_ms, rows), workers)
        scenario = resized(scenario, capacity, grid.least, most)
        steady = kind == "steady"
        load, cv2 = arrivals["load"], arrivals.get("cv2", 1.0)
        for noise in (True, False) if not steady or cv2 in grid.calm_cv2 else (True,):
            label = f"{family.name} {name}{'' if noise else ' calm'}"
            told = (load, cv2) if steady else (None, None)
            cells.append(Cell(label, family.name, kind, scenario, noise, *told))
    return cells


def _longer(load: float) -> float:
    """How many times longer than others a run at this load is, so that its ends do not decide.

    Below the capacity: whoever knows that no request follows the last one has a budget of every worker's time for
    nothing, and the spare time it compares with is (1 - load) of the run. Above: a queue that starts empty and grows
    by the excess takes 1 / (load - 1) budgets to fill, and flatters until then whoever serves it.
    """
    return min(LONGEST, 1 / (1 - load)) if load < 1 else LONGEST


def _arrivals(grid: Grid, full_at: float, lasts_s: float) -> Iterator[tuple[Kind, str, dict[str, Any]]]:
    """(kind, name, arrivals) of each scenario."""
    for load in grid.loads:
        for cv2 in grid.cv2:
            yield "steady", f"load {load:g} cv2 {cv2:g}", _gaps(load, cv2)
    start = min(START * full_at, STEP_PEAK / 2)
    factor = min(STEP_FACTOR, STEP_PEAK / start)
    step = [_phase(LONGEST * lasts_s / 3, each, each) for each in (1.0, factor, 1.0)]
    yield "step", "step", _gaps(start, 1.0) | {"phases": step}
    low = start / RAMP_PEAK
    ramp = [_phase(LONGEST * lasts_s / 2, low, 1.0), _phase(LONGEST * lasts_s / 2, 1.0, low)]
    yield "ramp", "ramp", _gaps(RAMP_PEAK, 1.0) | {"phases": ramp}
    for share in grid.mixed_loads:
        yield "mixed", f"mixed {share:g}", _gaps(share * full_at, MIXED_CV2)


def _gaps(load: float, cv2: float) -> dict[str, Any]:
    return {"kind": "poisson", "load": load} if cv2 == 1 else {"kind": "gamma", "cv2": cv2, "load": load}


def _phase(duration_s: float, start: float, end: float) -> dict[str, float]:
    return {"duration_s": duration_s, "from": start, "to": end}


def _scenario(
    name: str, lasts_s: float, arrivals: dict[str, Any], classes: list[dict[str, Any]], workers: int
) -> Scenario:
    return Scenario.model_validate(
        {
            "name": name,
            "duration_s": lasts_s,
            "arrivals": arrivals,
            "classes": classes,
            "fleet": {"workers": workers},
        }
    )


def _plain(family: Served, budget_ms: float, rows: int) -> list[dict[str, Any]]:
    return [{"name": "plain", "model": family.name, "latency_ms": budget_ms, "rows": rows}]


def _mixed(family: Served, budget_ms: float) -> list[dict[str, Any]]:
    """Callers of different patience, floors and sizes on one family."""
    ranked = sorted(view.accuracy for view in family.variants)
    common = {"model": family.name}
    return [
        common | {"name": "plain", "weight": 5.0, "latency_ms": budget_ms},
        common
        | {"name": "floor", "weight": 2.0, "latency_ms": 1.5 * budget_ms, "min_accuracy": ranked[len(ranked) // 2]},
        common | {"name": "high-floor", "weight": 0.5, "latency_ms": 2.5 * budget_ms, "min_accuracy": ranked[-1]},
        common | {"name": "hurried", "weight": 1.0, "latency_ms": 0.4 * budget_ms},
        common | {"name": "quick", "weight": 0.5, "latency_ms": 0.5 * budget_ms, "prefer": "latency"},
        common | {"name": "album", "weight": 0.5, "latency_ms": 4 * budget_ms, "rows": {"2": 0.5, "4": 0.5}},
    ]
