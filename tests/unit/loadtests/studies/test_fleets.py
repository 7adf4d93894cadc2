from dataclasses import replace

import pytest

from loadtests.scenario import FleetEntry, PoissonArrivals
from loadtests.studies.fleets import FLEET_POLICIES, SIZES, fleet_cells
from loadtests.studies.lineup import check_policies
from loadtests.studies.shorten import expected_requests
from loadtests.study import run_task
from tests.support.studies import TINY, task


def test_every_fleet_has_the_same_workers_and_meets_the_same_stream() -> None:
    cells = fleet_cells(TINY, 40.0)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    each = len(cells) // len(SIZES)
    for cell, (rate, workers) in zip(cells, [size for size in SIZES for _ in range(each)], strict=True):
        assert cell.scenario.fleet.total_workers == workers
        assert expected_requests(cell.scenario, {}) == min(rate * 0.4, 200_000)
    assert len({cell.scenario.fleet.model_dump_json() for cell in cells}) == len(cells)
    check_policies(FLEET_POLICIES, [TINY])


def test_what_the_others_sent_is_only_asked_where_there_are_others() -> None:
    for cell in fleet_cells(TINY, 40.0, noise=False, most=500):
        assert not cell.noise
        assert expected_requests(cell.scenario, {}) == 500
        fleet: FleetEntry = cell.scenario.fleet
        assert not fleet.staleness_ms or (fleet.routing, fleet.gateways > 1) == ("two-choices", True)


@pytest.mark.parametrize(
    "where", ["4 gateways of 16", "32 gateways of 2", "1 over 64", "16 over 64", "16 over 64, two choices, 10 ms late"]
)
def test_with_workers_to_spare_small_gateways_answer_as_one_would(where: str) -> None:
    (found,) = (each for each in fleet_cells(TINY, 40.0, most=400) if each.name == f"tiny 1e+05/s {where}")
    calmer = found.scenario.model_copy(update={"arrivals": PoissonArrivals(kind="poisson", rate=2000.0)})
    result = run_task(task(replace(found, scenario=calmer), policies=("look-ahead",))).policies["look-ahead"]
    assert result.attainment > 0.99
    assert result.served_accuracy > 0.89
