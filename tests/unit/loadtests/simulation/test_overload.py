"""Five times the capacity, with a gateway whose loop takes time for requests, and more for batches."""

from loadtests.durations import Overhead
from loadtests.scenario import Scenario
from loadtests.simulation.records import Metrics
from loadtests.simulation.setting import Assumptions
from loadtests.simulator import simulate
from loadtests.studies.lineup import policy_for
from loadtests.study import capacities, fleet_of
from loadtests.workload import calls
from tests.support.studies import TINY

BUSY_LOOP = Overhead(source="assumed", parse_us=30.0, hand_off_us=600.0, travel_us=0.0, render_us=30.0)


def served_at(load: float) -> Metrics:
    scenario = Scenario.model_validate(
        {
            "name": "overload",
            "duration_s": 3.0,
            "fleet": {"workers": 2},
            "arrivals": {"kind": "poisson", "load": load},
            "classes": [{"name": "plain", "model": TINY.name, "latency_ms": 50}],
        }
    )
    asked = list(calls(scenario, capacities((TINY,), scenario, 0.0), 1))
    assumed = Assumptions(overhead=BUSY_LOOP)
    run = simulate(asked, (TINY,), fleet_of(scenario), policy_for("look-ahead", 3.0), seed=1, assumptions=assumed)
    return run.metrics(since_s=1.0)


def test_goodput_holds_at_five_times_the_capacity_and_what_is_admitted_is_met() -> None:
    full, over = served_at(1.0), served_at(5.0)
    admitted = over.requests - over.rejected
    assert over.attainment * over.rows > 0.9 * full.attainment * full.rows
    assert over.late + over.expired < 0.01 * admitted
