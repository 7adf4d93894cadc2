"""Two models on one pool: the simulator and the dispatcher share out workers by the same rule."""

from collections.abc import Mapping
from dataclasses import replace

from loadtests.scenario import Scenario
from loadtests.simulation.records import Metrics
from loadtests.simulation.setting import Assumptions
from loadtests.simulator import simulate
from loadtests.studies.lineup import policy_for
from loadtests.study import capacities, fleet_of
from loadtests.workload import calls
from tests.support.studies import TINY

PAIR = (replace(TINY, name="steady"), replace(TINY, name="bursty"))


def met_beside_a_burst(load: float, weights: Mapping[str, float]) -> tuple[Metrics, Metrics]:
    """A steady model, and one whose callers are in more of a hurry and multiply for a second and a half."""
    phases = [{"duration_s": 1.0, "factor": 1}, {"duration_s": 1.5, "factor": 20}, {"duration_s": 0.5, "factor": 1}]
    scenario = Scenario.model_validate(
        {
            "name": "burst",
            "duration_s": 3.0,
            "fleet": {"workers": 2, "weights": dict(weights)},
            "classes": [
                {"name": "calm", "model": "steady", "latency_ms": 40, "arrivals": {"kind": "poisson", "load": load}},
                {
                    "name": "wild",
                    "model": "bursty",
                    "latency_ms": 20,
                    "arrivals": {"kind": "poisson", "load": 0.1, "phases": phases},
                },
            ],
        }
    )
    asked = list(calls(scenario, capacities(PAIR, scenario, 0.0), 1))
    assumed = Assumptions(noise=False, batch_overhead_s=0.0)
    run = simulate(asked, PAIR, fleet_of(scenario), policy_for("look-ahead", 3.0), seed=1, assumptions=assumed)
    return run.metrics(kind="calm"), run.metrics(kind="wild")


def test_a_burst_with_short_deadlines_does_not_starve_another_model() -> None:
    calm, wild = met_beside_a_burst(0.3, {})
    assert calm.attainment > 0.8  # by deadlines alone 0.71
    assert wild.attainment > 0.4  # and what the other does not need is the burst's


def test_weights_decide_when_both_need_more_than_there_is() -> None:
    calm, wild = met_beside_a_burst(0.7, {})
    favoured, other = met_beside_a_burst(0.7, {"steady": 4.0})
    assert favoured.attainment > 0.95 > calm.attainment
    assert other.attainment < wild.attainment
