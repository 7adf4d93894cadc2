"""Tables that were measured at a bad moment: the scheduler finds out while it serves."""

from dataclasses import replace
from pathlib import Path

import pytest

import models
from loadtests.simulation.records import Metrics
from loadtests.simulation.served import Served
from loadtests.simulator import simulate
from loadtests.studies.families import open_families
from loadtests.studies.lineup import policy_for
from loadtests.study import capacities, fleet_of
from loadtests.workload import calls
from serving.core import drift
from tests.support.studies import scenario

FAMILIES = Path(models.__file__).parent / "zoo" / "families"


@pytest.fixture(scope="module")
def fashion() -> Served:
    (served,), _ = open_families(["fashion"], FAMILIES)
    return served


def at_load(served: Served, wrong: dict[str, float]) -> Metrics:
    """The family at a tenth of its capacity; the scheduler's table of a variant is `wrong` times as long."""
    views = tuple(replace(view, table=view.table.copy()) for view in served.variants)
    for view in views:
        view.table.stretch(wrong.get(view.name, 1.0))
    load = scenario(
        0.1,
        requests=30_000,
        fleet={"workers": 2},
        classes=[{"name": "plain", "model": "fashion", "latency_ms": 20}],
    )
    asked = list(calls(load, capacities((served,), load, 0.0), 1))
    believed = replace(served, variants=views)
    return simulate(asked, (believed,), fleet_of(load), policy_for("look-ahead", 1.0), seed=1).metrics()


@pytest.mark.parametrize(
    "wrong",
    [
        {"dsconv-32-fp32": 0.25},  # so that it seems the fastest of all
        {"linear": 4.0},  # so that another seems to be the fastest
        {"resnet-32-int8w4": 0.25, "dsconv-64-int8": 0.25},
    ],
)
def test_a_wrong_table_costs_little(fashion: Served, wrong: dict[str, float]) -> None:
    right, learnt = at_load(fashion, {}), at_load(fashion, wrong)
    assert learnt.attainment > right.attainment - 0.002
    assert learnt.effective_accuracy > right.effective_accuracy - 0.01


def test_that_is_what_relearning_is_for(fashion: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "LIMIT", 1e9)
    assert at_load(fashion, {"dsconv-32-fp32": 0.25}).attainment < 0.95
