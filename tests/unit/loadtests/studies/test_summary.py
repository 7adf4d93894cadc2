from dataclasses import replace

import pytest

from loadtests.bootstrap import Interval
from loadtests.studies.lineup import SMALLEST
from loadtests.studies.results import CellResult, cell_results
from loadtests.studies.summary import summarise
from loadtests.study import run_task
from tests.support.studies import cell, grid_results, task


@pytest.fixture(scope="module")
def results() -> list[CellResult]:
    return grid_results()


def test_headroom_is_counted_from_the_smallest_variant(results: list[CellResult]) -> None:
    for result in results:
        smallest, ours = result.row(SMALLEST), result.row("look-ahead")
        assert smallest is not None
        assert ours is not None
        assert smallest.headroom == Interval(0.0, 0.0, 0.0)
        assert ours.headroom is not None
        room = result.upper_bound.mean - smallest.effective_accuracy.mean
        assert ours.headroom.mean == pytest.approx(
            (ours.effective_accuracy.mean - smallest.effective_accuracy.mean) / room
        )
        assert result.seeds == (1, 2)


def test_counts_are_sums_and_shares_are_means_over_seeds(results: list[CellResult]) -> None:
    where = results[0].cell
    runs = [run_task(task(where, seed)).policies["max-accuracy"] for seed in (1, 2)]
    row = results[0].row("max-accuracy")
    assert row is not None
    assert row.late == sum(run.late for run in runs)
    assert row.requests == sum(run.requests for run in runs)
    assert row.attainment == pytest.approx(sum(run.attainment for run in runs) / 2)


def test_where_there_is_no_room_there_is_no_headroom() -> None:
    # A pinned variant leaves nothing to choose.
    pinned = [{"name": "plain", "model": "tiny", "latency_ms": 40, "variant": "v0"}]
    where = cell(classes=pinned, noise=False)
    (result,) = cell_results([where], [run_task(task(where))])
    assert {row.headroom for row in result.rows} == {None}
    (group,) = summarise([result])
    assert group.with_room == 0
    assert all(line.headroom is None and line.lead is None for line in group.lines)


def test_the_summary_compares_pair_by_pair(results: list[CellResult]) -> None:
    (group,) = summarise(results)
    assert (group.cells, group.with_room) == (4, 4)
    ours, *others = group.lines
    assert (ours.policy, ours.beaten, ours.lead) == ("look-ahead", None, None)
    assert ours.headroom is not None
    by_name = {line.policy: line for line in others}
    smallest = by_name[SMALLEST]
    assert smallest.beaten == 1.0
    assert smallest.lead is not None
    assert smallest.lead.mean == pytest.approx(ours.headroom.mean)
    assert smallest.lead.low > 0
    assert by_name["max-accuracy"].shortfall.least < 0


def test_families_and_noise_are_summed_up_apart(results: list[CellResult]) -> None:
    first = results[0]
    calm = replace(first, cell=replace(first.cell, noise=False))
    other = replace(first, cell=replace(first.cell, family="other"))
    groups = summarise([first, calm, other])
    assert [group.name for group in groups] == ["tiny", "tiny, no service noise", "other", "all families"]
    assert groups[-1].cells == 2
