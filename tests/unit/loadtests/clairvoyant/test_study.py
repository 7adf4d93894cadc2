from dataclasses import replace

import numpy as np
import pytest

from loadtests.clairvoyant.__main__ import main
from loadtests.clairvoyant.instance import NotAlikeError, instance_of
from loadtests.clairvoyant.schedule import Planned, accuracy_sum
from loadtests.clairvoyant.study import Compared, Rungs, StudyError, compare, cut_out
from loadtests.clairvoyant.table import headrooms, table_of
from loadtests.clairvoyant.watched import watch
from loadtests.study import capacities, fleet_of, run_task
from loadtests.workload import calls
from serving.core.policies.registry import named_policy
from tests.support.studies import TINY, cell, task


def asked(one):
    return list(calls(one.cell.scenario, capacities(one.served, one.cell.scenario, 0.0), one.seed))


@pytest.mark.parametrize("load", [0.1, 0.7, 1.3])
def test_what_the_simulator_served_is_feasible_and_earns_the_same_when_it_is_replayed(load):
    one = task(cell(load=load, noise=False))
    requests = asked(one)
    run = watch(requests, TINY, fleet_of(one.cell.scenario), named_policy("look-ahead"), 1, one.assumptions)
    replayed = accuracy_sum(instance_of(requests, TINY, 2), run.batches)
    assert replayed == pytest.approx(run.earned(TINY, 0, len(requests)))


@pytest.mark.parametrize("load", [0.1, 0.7])
def test_the_rungs_stand_in_their_order(load):
    one = task(cell(load=load, noise=False))
    found = compare(one, beam=64)
    scored = run_task(one)
    free, same = found.free_ends, found.same_ends
    assert free.fluid == scored.upper_bound
    assert free.look_ahead == pytest.approx(scored.policies["look-ahead"].effective_accuracy)
    assert free.requests == scored.policies["look-ahead"].requests
    assert free.clairvoyant <= free.ceiling + 1e-9 <= free.fluid + 2e-9
    assert same.look_ahead - 1e-9 <= same.clairvoyant <= same.ceiling + 1e-9
    assert 0.5 < same.smallest <= same.look_ahead


def test_a_cut_begins_and_ends_as_the_run_did():
    one = task(cell(load=0.7, noise=False))
    requests = asked(one)
    whole = instance_of(requests, TINY, 2)
    run = watch(requests, TINY, fleet_of(one.cell.scenario), named_policy("look-ahead"), 1, one.assumptions)
    part, first, own = cut_out(whole, run.batches, 100)
    assert first >= 100
    assert part.at_s[0] == requests[first].at_s
    assert accuracy_sum(part, own) == pytest.approx(run.earned(TINY, first, first + len(part.at_s)))
    assert part.handover_s[-1] > part.at_s[-1] > part.free_s[0]


def test_a_run_out_of_order_or_without_a_batch_cannot_be_cut():
    whole = replace(instance_of(asked(task(cell())), TINY, 2), at_s=np.array([0.0, 0.1, 0.2, 0.3]))
    with pytest.raises(StudyError, match="make the run longer"):
        cut_out(whole, [Planned((0,), 0, 0.0)], 2)
    swapped = [Planned((2,), 0, 0.2), Planned((1,), 0, 0.21)]
    with pytest.raises(StudyError, match="out of the order"):
        cut_out(whole, swapped, 1)


def test_requests_must_be_alike():
    requests = asked(task(cell()))
    with pytest.raises(NotAlikeError, match="differ in rows"):
        instance_of([requests[0], replace(requests[1], rows=2)], TINY, 2)


def test_headroom_is_gain_over_room_of_all_seeds():
    rungs = Rungs(10, smallest=0.6, look_ahead=0.7, clairvoyant=0.75, ceiling=0.78, fluid=0.8)
    wider = replace(rungs, look_ahead=0.8, fluid=1.0)
    two = [Compared("load", 1, rungs, rungs), Compared("load", 2, wider, wider)]
    assert headrooms(two)[0] == pytest.approx(0.15 / 0.3)
    assert headrooms(two)[3] == pytest.approx(0.15 / 0.18)
    flat = replace(rungs, smallest=0.78, fluid=0.78)
    assert headrooms([Compared("load", 1, flat, flat)]) == (None,) * 5
    assert table_of(two).row_count == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cells", "no such load"], "no load"),
        (["--beam", "0"], "at least 1"),
        (["--suite", "huge"], "invalid choice"),
    ],
)
def test_a_command_that_asks_for_nothing_is_refused(arguments, told, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert told in capsys.readouterr().err
