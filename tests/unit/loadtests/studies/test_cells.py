from dataclasses import replace

import pytest

from loadtests.studies.cells import GRIDS, LONGEST, Cell, Grid, grid_cells, log_spaced
from loadtests.studies.lineup import check_policies, policy_for, suite_policies
from loadtests.studies.shorten import expected_requests
from serving.core.policies.batching import PolicyError
from tests.support.studies import TINY

GRID = Grid(
    loads=(0.01, 0.9), cv2=(1, 8), calm_cv2=(8,), mixed_loads=(0.5,), budgets=20, least=50, most=500, most_rows=8
)
CAPACITY = {"tiny": 2000.0}


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return grid_cells(GRID, TINY, 40.0, workers=2)


def test_the_loads_are_evenly_spaced_and_pass_the_capacity() -> None:
    assert log_spaced(0.001, 1.0, 4) == (0.001, 0.01, 0.1, 1.0)
    full = GRIDS["full"]
    assert (full.loads[0], full.loads[7:]) == (0.002, (0.9, 1.0, 1.15, 1.3))
    assert full.cv2 == (1, 2, 4, 8)


def test_every_cell_is_named_once_and_calm_where_it_is_said(cells: list[Cell]) -> None:
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert names.count("tiny load 0.9 cv2 8 calm") == 1
    assert "tiny load 0.9 cv2 1 calm" not in names
    assert {cell.kind for cell in cells} == {"steady", "step", "ramp", "mixed"}
    assert {(cell.load, cell.cv2) for cell in cells if cell.kind == "steady"} == {
        (load, cv2) for load in (0.01, 0.9) for cv2 in (1, 8)
    }


def test_runs_have_the_requests_they_may_have(cells: list[Cell]) -> None:
    for cell in cells:
        most = 500 * (LONGEST if cell.load == 0.9 or cell.kind in ("step", "ramp") else 1.02)
        assert 50 <= expected_requests(cell.scenario, CAPACITY) <= most + 0.001


def test_requests_have_several_rows_only_where_single_ones_would_be_too_many(cells: list[Cell]) -> None:
    rows = {cell.name: cell.scenario.classes[0].mean_rows for cell in cells}
    assert rows["tiny load 0.01 cv2 1"] == 1
    # 20 budgets of 40 ms at 1800 rows a second are 1440 rows: 360 requests of 4.
    assert rows["tiny load 0.9 cv2 1"] == 4


def test_near_and_above_the_capacity_runs_are_longer() -> None:
    grid = replace(GRID, loads=(0.2, 0.5, 0.9, 1.0, 1.2))
    lasts_s = {
        cell.load: expected_requests(cell.scenario, CAPACITY) * cell.scenario.classes[0].mean_rows / (cell.load * 2000)
        for cell in grid_cells(grid, TINY, 40.0, workers=2)
        if cell.load is not None
    }
    assert lasts_s == pytest.approx({0.2: 1.0, 0.5: 1.6, 0.9: 3.2, 1.0: 3.2, 1.2: 3.2}, rel=0.01)


def test_callers_differ_in_the_mixed_cell(cells: list[Cell]) -> None:
    (mixed,) = (cell.scenario for cell in cells if cell.name == "tiny mixed 0.5")
    budgets = [entry.budget() for entry in mixed.classes]
    assert len({budget.latency_s for budget in budgets}) > 3
    assert {budget.min_accuracy for budget in budgets} == {None, 0.9}


def test_the_line_up_has_every_rule_with_and_without_early_drop() -> None:
    names = suite_policies(TINY)
    assert len(set(names)) == len(names)
    check_policies(names, [TINY])
    for rule in ("clipper:fastest", "proteus", "slackfit", "slackfit-queue", "max-batch", "max-accuracy"):
        assert {rule, f"{rule}+early-drop"} <= set(names)


def test_proteus_gets_a_period_that_fits_the_run() -> None:
    assert policy_for("proteus", 60.0).name == "proteus:2"
    assert policy_for("proteus+early-drop", 0.001).name == "proteus:0.01+early-drop"
    assert policy_for("proteus:7", 60.0).name == "proteus:7"


def test_a_variant_that_is_not_there_is_told() -> None:
    with pytest.raises(PolicyError, match="v9"):
        check_policies(["fixed:v9"], [TINY])
