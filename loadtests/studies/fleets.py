"""The fleet suite: one stream of requests on the same workers, behind few gateways and many.

A gateway decides with what it knows. Where the workers are its own it knows all about them, but there are fewer the
more gateways there are. Where they are everybody's, what the others sent is known late, if at all. What either costs is
asked here, at rates that no machine of a developer bears.
"""

from collections.abc import Iterator
from typing import Any

from loadtests.scenario import Scenario
from loadtests.simulation.served import Served
from loadtests.studies.cells import Cell
from loadtests.studies.lineup import SMALLEST
from loadtests.studies.shorten import resized
from serving.core.policies.registry import EARLY_DROP, LOOK_AHEAD

FLEETS = "fleets"
"""The suite's name."""
FLEET_POLICIES = (LOOK_AHEAD, "slackfit-queue" + EARLY_DROP, SMALLEST)
"""Compared when nobody names any: runs of this size take long."""
SIZES = ((1e5, 64), (1e6, 256))
"""Requests a second, of one row each, and the workers for them."""
COLOCATED = (16, 2)
"""Workers of each gateway that has its own."""
SPLIT = (1, 4, 16, 64)
"""Gateways in front of all workers."""
STALENESS_MS = (0.0, 10.0)
"""Age of what a gateway knows of the others' batches, where it sends to any worker."""
BUDGETS, MOST = 10.0, 200_000
"""Latency budgets a run lasts, and the most requests it has."""


def fleet_cells(family: Served, budget_ms: float, *, noise: bool = True, most: int | None = None) -> list[Cell]:
    """Every fleet at every rate; `most` requests a run instead of `MOST`."""
    cells = []
    for rate, workers in SIZES:
        for name, fleet in _fleets(workers):
            scenario = Scenario.model_validate(
                {
                    "name": "fleet",
                    "duration_s": BUDGETS * budget_ms / 1e3,
                    "arrivals": {"kind": "poisson", "rate": rate},
                    "classes": [{"name": "plain", "model": family.name, "latency_ms": budget_ms}],
                    "fleet": fleet,
                }
            )
            sized = resized(scenario, {}, 1, most or MOST)
            cells.append(Cell(f"{family.name} {rate:.0e}/s {name}", family.name, "fleet", sized, noise))
    return cells


def _fleets(workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for own in COLOCATED:
        yield f"{workers // own} gateways of {own}", {"gateways": workers // own, "workers": own}
    for gateways in SPLIT:
        split = {"topology": "split", "workers": workers, "gateways": gateways}
        yield f"{gateways} over {workers}", split
        for staleness_ms in STALENESS_MS if gateways > 1 else STALENESS_MS[:1]:
            late = f", {staleness_ms:g} ms late" if staleness_ms else ""
            drawn = {"routing": "two-choices", "staleness_ms": staleness_ms}
            yield f"{gateways} over {workers}, two choices{late}", split | drawn
