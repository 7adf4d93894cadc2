import json
from multiprocessing import active_children

import psutil
import pytest

from loadtests.scenario import ScenarioError
from loadtests.studies.lineup import SMALLEST
from loadtests.studies.results import SeedResult
from loadtests.study import capacities, fleet_of, run_task, run_tasks
from tests.support.studies import TINY, cell, scenario, task


def settled(result: SeedResult) -> dict[str, object]:
    """Without what differs between two runs of the same: the time decisions took."""
    facts = json.loads(json.dumps(result.facts()))
    for metrics in facts["policies"].values():
        del metrics["decision_p99_us"]
    return facts


def test_every_policy_meets_the_same_requests_and_the_frame_is_always_run() -> None:
    found = run_task(task(cell()))
    assert list(found.policies) == ["look-ahead", "max-accuracy", SMALLEST]
    assert len({metrics.requests for metrics in found.policies.values()}) == 1
    assert found.requests == 300
    assert found.policies[SMALLEST].effective_accuracy == pytest.approx(0.6)


@pytest.mark.parametrize("load", [0.05, 0.5, 1.3])
def test_without_noise_no_policy_passes_the_bounds(load: float) -> None:
    found = run_task(task(cell(load=load, noise=False), policies=("look-ahead", "slackfit-queue", "max-accuracy")))
    best = max(found.policies.values(), key=lambda metrics: metrics.effective_accuracy)
    assert 0.5 * found.upper_bound < best.effective_accuracy <= found.upper_bound + 1e-9
    assert max(metrics.attainment for metrics in found.policies.values()) <= found.attainment_bound + 1e-9


def test_the_warm_up_is_simulated_and_not_counted() -> None:
    found = run_task(task(cell()))
    # 300 requests at 200 a second; eight budgets of 40 ms.
    assert found.since_s == pytest.approx(0.32, abs=0.03)
    assert 200 < found.policies[SMALLEST].requests < 270
    short = run_task(task(cell(requests=20)))
    assert short.since_s < 0.08


def test_the_same_seed_repeats_and_results_survive_the_journal() -> None:
    once, twice = run_task(task(cell())), run_task(task(cell()))
    assert settled(once) == settled(twice) != settled(run_task(task(cell(), seed=2)))
    assert SeedResult.read(json.loads(json.dumps(once.facts()))) == once


def test_processes_find_the_same() -> None:
    tasks = [task(cell(), seed) for seed in (1, 2, 3)]
    alone = [settled(result) for result in run_tasks(tasks, jobs=1)]
    shared = sorted((settled(result) for result in run_tasks(tasks, jobs=2)), key=lambda facts: str(facts["seed"]))
    assert shared == alone


def test_stopping_early_ends_the_processes() -> None:
    before = set(active_children())
    results = run_tasks([task(cell(), seed) for seed in range(1, 9)], jobs=2)
    next(results)
    # By their numbers: the pool joins its processes too, and of two who wait only one is told.
    started = [psutil.Process(child.pid) for child in set(active_children()) - before]
    assert started
    results.close()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive


def test_a_load_without_requests_is_told() -> None:
    silent = scenario().model_copy(update={"requests": None, "duration_s": 1e-9})
    where = cell()
    with pytest.raises(ScenarioError, match="no request arrives"):
        run_task(task(type(where)("silent", "tiny", "scenario", silent)))


def test_the_fleet_and_its_capacity_follow_the_scenario() -> None:
    split = scenario(
        fleet={"workers": 4, "gateways": 2, "topology": "split", "routing": "two-choices", "staleness_ms": 5}
    )
    fleet = fleet_of(split)
    assert (fleet.workers, fleet.gateways, fleet.split, fleet.two_choices) == (4, 2, True, True)
    assert fleet.staleness_s == 0.005
    assert capacities([TINY], split, 0.0)["tiny"] == pytest.approx(4000)
