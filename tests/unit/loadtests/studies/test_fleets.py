from loadtests.scenario import FleetEntry
from loadtests.studies.fleets import FLEET_POLICIES, RATES, WORKERS, fleet_cells
from loadtests.studies.lineup import check_policies
from loadtests.studies.shorten import expected_requests
from loadtests.study import Task, run_task
from tests.support.studies import TINY, task


def test_every_fleet_has_the_same_workers_and_meets_the_same_stream() -> None:
    cells = fleet_cells(TINY, 40.0)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert {cell.scenario.fleet.total_workers for cell in cells} == {WORKERS}
    at_rate = len(cells) // len(RATES)
    for cell, rate in zip(cells, [rate for rate in RATES for _ in range(at_rate)], strict=True):
        assert expected_requests(cell.scenario, {}) == min(rate * 0.4, 200_000)
    assert len({cell.scenario.fleet.model_dump_json() for cell in cells}) == at_rate
    check_policies(FLEET_POLICIES, [TINY])


def test_what_the_others_sent_is_only_asked_where_there_are_others() -> None:
    for cell in fleet_cells(TINY, 40.0, noise=False, most=500):
        assert not cell.noise
        assert expected_requests(cell.scenario, {}) == 500
        fleet: FleetEntry = cell.scenario.fleet
        assert not fleet.staleness_ms or (fleet.topology, fleet.gateways > 1) == ("split", True)


def test_small_gateways_of_a_large_fleet_answer_as_one_would() -> None:
    """At a rate far below what the workers can do nobody has to know of anybody."""

    def ran(where: str) -> Task:
        (cell,) = (each for each in fleet_cells(TINY, 40.0, most=400) if each.name == f"tiny 1e+05/s {where}")
        return task(cell, policies=("look-ahead",))

    for where in ("16 gateways of 16", "1 over 256", "16 over 256, 10 ms late"):
        result = run_task(ran(where)).policies["look-ahead"]
        assert result.attainment > 0.95
        assert result.served_accuracy > 0.85
