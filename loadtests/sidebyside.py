"""The same scenario live and simulated, policy by policy: may simulated figures be quoted?

    python -m loadtests.sidebyside loadtests/scenarios/live-steady.toml --out FOLDER

For each policy a gateway is started, the scenario is run against it, and simulated from measured durations and the
gateway's own time. Exit code 1 when they differ by more than `loadtests.compare` allows, 2 when it was asked wrongly.
Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from loadtests.arrivals import TraceError
from loadtests.benchmark.running import StartError, running
from loadtests.benchmark.servers import ROOT, ServerSpec, free_place
from loadtests.compare import Comparison, Figures, comparison_table, live_figures
from loadtests.durations import DurationsError
from loadtests.live import LiveError, LiveRun
from loadtests.playing import Play, PlayError, play
from loadtests.scenario import Scenario, ScenarioError, read_scenario
from loadtests.simulation.setting import Assumptions
from loadtests.studies.cells import Cell
from loadtests.studies.families import open_families
from loadtests.studies.lineup import SMALLEST
from loadtests.studies.results import SeedResult
from loadtests.study import Task, run_task
from loadtests.workload import calls
from models.manifest import ManifestError
from models.repository import RepositoryError
from serving.core.policies.batching import PolicyError
from serving.core.policies.registry import EARLY_DROP, LOOK_AHEAD, named_policy

POLICIES = (LOOK_AHEAD, "slackfit-queue" + EARLY_DROP, SMALLEST)
DEMO = ROOT / "models" / "zoo" / "families"
START_TIMEOUT_S = 180.0
"""A first start measures profiles."""


def run_live(
    policy: str, scenario: Scenario, path: Path, seeds: Sequence[int], models: Path, folder: Path
) -> Iterator[LiveRun]:
    """A gateway with that policy, and a run for each seed. Raises `StartError`, `PlayError`, `LiveError`."""
    spec = _gateway(policy, scenario, models)
    place = free_place(models)
    with running(spec, place, folder, {}):
        for seed in seeds:
            out = folder / f"live-{_file_name(policy)}-{seed}.json"
            last_s = 0.0
            for call in calls(scenario, {}, seed):
                last_s = call.at_s
            yield play(Play(scenario=path, host=spec.url(place, ""), out=out, seed=seed, label=policy), last_s)


def run_simulated(
    policies: Sequence[str], scenario: Scenario, seeds: Sequence[int], models: Path, durations: Sequence[Path]
) -> list[SeedResult]:
    """The policies on the same requests, with the gateway's own time. Raises `DurationsError` and others."""
    plain = Assumptions()
    served, _ = open_families(scenario.models(), models, durations, plain.batch_overhead_s)
    assumed = replace(plain, overhead=served[0].durations.overhead)
    cell = Cell(scenario.name, scenario.name, "scenario", scenario)
    return [run_task(Task(cell, seed, served, tuple(policies), assumed)) for seed in seeds]


def side_by_side(policy: str, live: Sequence[LiveRun], simulated: Sequence[SeedResult]) -> Comparison:
    """One policy, means over the seeds, the warm-up of each left out."""
    seen = [live_figures(run, result.since_s) for run, result in zip(live, simulated, strict=True)]
    return Comparison(
        live=Figures(
            policy,
            fmean(one.attainment for one in seen),
            fmean(one.effective_accuracy for one in seen),
            "; ".join(dict.fromkeys(one.invalid for one in seen if one.invalid)),
        ),
        simulated=Figures(
            policy,
            fmean(result.policies[policy].attainment for result in simulated),
            fmean(result.policies[policy].effective_accuracy for result in simulated),
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.sidebyside", description=__doc__)
    parser.add_argument("scenario", type=Path, help="TOML file; its arrivals need a 'rate'")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), metavar="NAME", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, with other arrivals")
    parser.add_argument("--models", type=Path, default=DEMO, help="folder of families. Default: the demo family")
    parser.add_argument(
        "--durations", type=Path, nargs="*", default=[], help="measured durations, besides those shipped"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for every run and the comparison")
    options = parser.parse_args(arguments)
    try:
        scenario = read_scenario(options.scenario)
        _check(scenario, options.policies)
        options.out.mkdir(parents=True, exist_ok=True)
        seeds = range(scenario.seed, scenario.seed + options.seeds)
        simulated = run_simulated(options.policies, scenario, seeds, options.models, options.durations)
        done = []
        for policy in options.policies:
            print(f"live: {policy}", file=sys.stderr)  # noqa: T201  # a command's own progress
            live = list(run_live(policy, scenario, options.scenario, seeds, options.models, options.out))
            done.append(side_by_side(policy, live, simulated))
    except (ScenarioError, TraceError, PolicyError, DurationsError, ManifestError, RepositoryError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except (StartError, PlayError, LiveError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    Console(width=None if sys.stdout.isatty() else 160).print(comparison_table(done))
    _write(options.out / "comparison.json", scenario, seeds, done)
    return 0 if all(item.agrees for item in done) else 1


def _gateway(policy: str, scenario: Scenario, models: Path) -> ServerSpec:
    """In one process, as the scenario's fleet has it."""
    return ServerSpec(
        name=f"gateway-{_file_name(policy)}",
        about=f"Gearshift, one process, policy {policy}",
        argv=(
            "{python}", "-m", "deployments.cli.main", "serve", "--engine", "inprocess", "--models", str(models),
            "--workers", str(scenario.fleet.workers), "--http-port", "{port}", "--grpc-port", "off",
            "--metrics-port", "{metrics_port}",
        ),
        env={"GEARSHIFT_SCHEDULER__POLICY": policy},
        start_timeout_s=START_TIMEOUT_S,
    )  # fmt: skip


def _check(scenario: Scenario, policies: Sequence[str]) -> None:
    """Raises `ScenarioError` and `PolicyError` for what would fail only after minutes."""
    if scenario.fleet.gateways != 1 or scenario.fleet.topology != "colocated":
        raise ScenarioError(f"scenario '{scenario.name}': one colocated gateway is started here, and no other fleet")
    next(calls(scenario, {}), None)
    for policy in policies:
        named_policy(policy)


def _file_name(policy: str) -> str:
    return "".join(char if char.isalnum() or char in "-." else "-" for char in policy)


def _write(path: Path, scenario: Scenario, seeds: Sequence[int], done: Sequence[Comparison]) -> None:
    document: dict[str, Any] = {
        "format": 1,
        "scenario": scenario.name,
        "command": shlex.join(["python", "-m", "loadtests.sidebyside", *sys.argv[1:]]),
        "cores": len(os.sched_getaffinity(0)),
        "seeds": list(seeds),
        "agrees": all(item.agrees for item in done),
        "policies": {
            item.live.label: {
                "live": asdict(item.live),
                "simulated": asdict(item.simulated),
                "attainment_points": round(item.attainment_points, 3),
                "accuracy_points": round(item.accuracy_points, 3),
                "agrees": item.agrees,
            }
            for item in done
        },
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
