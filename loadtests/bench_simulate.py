"""What a simulated request costs: `python -m loadtests.bench_simulate`.

A million requests of `steady-0.7` under look-ahead, or as many of another scenario. Processor time of this process, so
that neighbours count little; making the requests is not in it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import loadtests
from loadtests.scenario import read_scenario
from loadtests.simulator import simulate
from loadtests.studies.lineup import policy_for
from loadtests.studies.plan import Wanted, plan_scenario
from loadtests.studies.shorten import resized
from loadtests.study import capacities, fleet_of
from loadtests.workload import calls
from serving.catalog import demo_repository
from serving.core.policies.registry import LOOK_AHEAD

STEADY = Path(loadtests.__file__).parent / "scenarios" / "steady-0.7.toml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line: microseconds a request, median (least to most) over the repeats, and the time of one run."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_simulate", description=__doc__)
    parser.add_argument("scenario", nargs="?", type=Path, default=STEADY, help="TOML file. Default: steady-0.7")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    if min(options.requests, options.repeats) < 1:
        parser.error("--requests and --repeats must be at least 1")
    wanted = Wanted(demo_repository(), policies=(LOOK_AHEAD,), seeds=1, requests=options.requests)
    (task,) = plan_scenario(options.scenario, wanted).tasks
    scenario = read_scenario(options.scenario)
    capacity = capacities(task.served, scenario, task.assumptions.batch_overhead_s)
    scenario = resized(scenario, capacity, options.requests, options.requests)
    asked = list(calls(scenario, capacity, task.seed))
    policy = policy_for(LOOK_AHEAD, asked[-1].at_s - asked[0].at_s)
    took_s = []
    for _ in range(options.repeats):
        started_s = time.process_time()
        simulate(asked, task.served, fleet_of(scenario), policy, seed=task.seed, assumptions=task.assumptions)
        took_s.append(time.process_time() - started_s)
    each_us = [1e6 * each_s / len(asked) for each_s in took_s]
    sys.stdout.write(
        f"{scenario.name}: {len(asked):,} requests, {statistics.median(each_us):.1f} us each "
        f"({min(each_us):.1f} to {max(each_us):.1f}), {statistics.median(took_s):.1f} s a run\n"
    )


if __name__ == "__main__":
    main()
