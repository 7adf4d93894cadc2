"""What one locust process does in a scenario's run: alone, as the master that deals out parts, or as a worker.

The master (or the only process) reads the scenario, asks the host what it serves, and deals: part k of n is every
n-th arrival from the k-th on, so the parts together are the very stream that one process would send. Workers tell
their samples with their usual reports every few seconds, so what was measured survives the loss of a worker.
"""

import logging
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from loadtests.client import Wire, WireError
from loadtests.documents import write_document
from loadtests.live import LiveRun, live_run
from loadtests.parts import Plan, chosen_classes, read_with_digest, tags_of, task_of
from loadtests.player import Player
from loadtests.samples import Samples
from loadtests.scenario import Scenario, ScenarioError
from loadtests.target import TargetError, capacities, read_target

PART = "gearshift_part"
"""The message with which the master deals; also the key of samples in a worker's report."""
START_DELAY_S = 1.0
"""From the dealing to the first arrival, so that all workers are ready when it comes."""
LAST_REPORTS_S = 4.0
"""A little more than the time between two reports of a worker."""
ASK_TIMEOUT_S = 5.0
"""For the host to tell what it serves."""

log = logging.getLogger("gearshift.loadtest")


@dataclass(slots=True)
class _State:
    """Of one run; a web UI may start several."""

    number: int = 0
    """Of the run, so that a late report of the run before is known as such."""
    plan: Plan | None = None
    samples: Samples = field(default_factory=Samples)
    started: str = ""
    playing: Player | None = None
    open: set[str] = field(default_factory=set)
    """Processes whose part has not ended; the only process is called ''."""
    endings: list[str] = field(default_factory=list)
    """Why parts ended early."""


class Conductor:
    """Kept by the environment of the process; called by locust's events, its shape and its user."""

    def __init__(self, environment: Environment, user_class: type) -> None:
        self._environment = environment
        self._user_class = user_class
        self._state = _State()
        self._runs = 0
        runner = environment.runner
        if isinstance(runner, WorkerRunner):
            runner.register_message(PART, self._on_part)
            environment.events.report_to_master.add_listener(self._on_report)
        else:
            self._offer_tasks(tags_of(self._read_scenario()[0]))
            environment.events.test_stop.add_listener(self._on_stop)
            environment.events.quit.add_listener(self._on_quit)
        if isinstance(runner, MasterRunner):
            environment.events.worker_report.add_listener(self._on_worker_report)

    # The master, or the only process

    def running(self) -> int:
        """How many processes have work: begins the run when it is asked first, and says 0 when it is over."""
        state = self._state
        if state.plan is None:
            try:
                self._begin()
            except (ScenarioError, TargetError, WireError, ValueError) as error:
                log.critical("%s", error)  # all of it: a traceback would tell the caller nothing
                self._environment.process_exit_code = 1
                self._state = _State()
                return 0
        self._forget_lost_workers()
        plan = self._state.plan
        return plan.parts if plan is not None and self._state.open else 0

    def _begin(self) -> None:
        """Read what is needed, and deal the parts. Raises what is wrong."""
        options, host = self._options(), self._host()
        scenario, digest = self._read_scenario()
        seed = scenario.seed if options.seed is None else options.seed
        kinds = chosen_classes(scenario, options.tags, options.exclude_tags)
        try:
            wire = Wire(host, 1, ASK_TIMEOUT_S)
            models = read_target(scenario.models(), wire.get)
            wire.close()
        except WireError as error:
            raise WireError(f"{host} cannot be load tested: {error}; is gearshift serve running there?") from None
        plan = Plan(scenario, digest, seed, {name: dict(told) for name, told in models.items()}, kinds)
        next(plan.calls(), None)  # a trace that cannot be replayed should be told before anything is sent
        runner = self._environment.runner
        self._runs += 1
        state = _State(number=self._runs, plan=plan, started=datetime.now(UTC).isoformat(timespec="seconds"))
        if isinstance(runner, MasterRunner):
            nodes = runner.clients.ready + runner.clients.running + runner.clients.spawning
            if not nodes:
                raise ValueError("no worker has connected: start some with `locust --worker`, then start the run")
            plan.parts = len(nodes)
            for place, node in enumerate(sorted(nodes, key=lambda node: runner.get_worker_index(node.id))):
                runner.send_message(PART, self._part(state.number, plan, place), node.id)
            state.open = {node.id for node in nodes}
        else:
            state.open = {""}
        self._state = state

    def _part(self, number: int, plan: Plan, place: int) -> dict[str, Any]:
        options = self._options()
        return {
            "run": number,
            "scenario": str(Path(options.scenario).resolve()),
            "trace": options.trace and str(Path(options.trace).resolve()),
            "digest": plan.digest,
            "seed": plan.seed,
            "models": plan.models,
            "kinds": sorted(plan.kinds),
            "tags": tags_of(plan.scenario),
            "place": place,
            "parts": plan.parts,
            "delay_s": START_DELAY_S,
        }

    def _forget_lost_workers(self) -> None:
        runner = self._environment.runner
        if isinstance(runner, MasterRunner):
            for name in list(self._state.open):
                if name not in runner.clients or runner.clients[name].state == STATE_MISSING:
                    self._state.open.discard(name)
                    self._state.endings.append("a worker was lost, and what it had measured last with it")

    def _on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        told = data.get(PART)
        if told is not None and told["run"] == self._state.number and client_id in self._state.open:
            self._state.samples.take(told)
            if told["ended"] is not None:
                self._state.open.discard(client_id)
                if told["ended"]:
                    self._state.endings.append(told["ended"])

    def _on_stop(self, **_: Any) -> None:
        """The run is over, or somebody has stopped it."""
        if self._waits_for_web() and isinstance(self._environment.runner, MasterRunner):
            self._wait_for_reports()
        run = self._write()
        if run is not None:
            self._environment.process_exit_code = 0 if run.complete else 1
        if self._waits_for_web():
            self._state = _State()

    def _wait_for_reports(self) -> None:
        """Stopped workers have their last samples in their next reports."""
        until_s = monotonic() + LAST_REPORTS_S
        while self._state.open and monotonic() < until_s:
            gevent.sleep(0.1)

    def _on_quit(self, **_: Any) -> None:
        """The last reports of workers come after a stop by Ctrl-C."""
        if isinstance(self._environment.runner, MasterRunner):
            self._write(tell=False)

    def _write(self, *, tell: bool = True) -> LiveRun | None:
        state, options = self._state, self._options()
        if state.plan is None or not len(state.samples):
            return None
        plan = state.plan
        ended = "; ".join(dict.fromkeys(state.endings)) or ("stopped before its end" if state.open else "")
        run = live_run(
            state.samples,
            plan.scenario,
            models=plan.models,
            capacity=capacities(plan.models, plan.scenario),
            processes=plan.parts,
            ended=ended,
            scenario_sha256=plan.digest,
            seed=plan.seed,
            host=self._host(),
            label=options.label,
            started=state.started,
            command=_command(),
        )
        if ended and tell:
            log.error("the run is not complete: %s", ended)
        if not run.sender.kept_up and tell:
            log.warning("the run is not valid: %s", run.sender.advice)
        if options.run_json:
            try:
                write_document(run, Path(options.run_json))
            except OSError as error:
                log.critical("%s cannot be written: %s", options.run_json, error.strerror)
                self._environment.process_exit_code = 1
        return run

    # A worker

    def _on_part(self, msg: Any, **_: Any) -> None:
        """The master has dealt."""
        part = msg.data
        state = self._state = _State(number=part["run"], open={""})
        self._offer_tasks(part["tags"])
        try:
            options = self._options()
            path, trace = options.scenario or part["scenario"], options.trace or part["trace"]
            scenario, digest = read_with_digest(path, trace)
            problem = "" if digest == part["digest"] else f"scenario {path} of a worker is not the one of its master"
        except ScenarioError as error:
            problem = str(error)
        if problem:
            log.critical("%s", problem)
            state.endings.append(problem)
            state.open.clear()
            return
        state.plan = Plan(
            scenario,
            digest,
            part["seed"],
            part["models"],
            frozenset(part["kinds"]),
            part["place"],
            part["parts"],
            monotonic() + part["delay_s"],
        )

    def _on_report(self, data: dict[str, Any], **_: Any) -> None:
        state = self._state
        # Before the samples: what comes in between belongs to the next report.
        ended = None if state.open else "; ".join(state.endings)
        data[PART] = {**state.samples.news(), "ended": ended, "run": state.number}

    # Whoever sends

    def play(self) -> None:
        """Send this process's part, from its user's greenlet; then the user is done."""
        state = self._state
        if state.plan is None or state.playing is not None or not state.open:
            raise StopUser
        options, plan, event = self._options(), state.plan, self._environment.events.request
        gone = ""
        try:
            state.playing = player = Player(
                plan, self._host(), state.samples, event, options.connections, options.timeout
            )
            gone = player.play(plan.start_s or monotonic())
        except (ScenarioError, WireError) as error:
            gone = str(error)
            log.critical("%s", error)
        except gevent.GreenletExit:
            gone = "stopped before its end"
            raise
        finally:
            if gone:
                state.endings.append(gone)
            state.open.discard("")
        raise StopUser

    # All of them

    def _options(self) -> Namespace:
        found: Namespace = self._environment.parsed_options
        return found

    def _host(self) -> str:
        host = self._environment.host
        if not host:
            raise ValueError("no host was given: add --host http://127.0.0.1:8000")
        return str(host)

    def _read_scenario(self) -> tuple[Scenario, str]:
        options = self._options()
        if not options.scenario:
            raise ScenarioError("no scenario was given: add --scenario FILE, or set GEARSHIFT_SCENARIO")
        return read_with_digest(options.scenario, options.trace)

    def _offer_tasks(self, tags: Iterable[Iterable[str]]) -> None:
        """One task a class, tagged with its name and its model, so that locust's own filter and lists know them.

        Any of them plays the whole part of the process; which classes are in it, the plan says.
        """
        self._user_class.tasks = [task_of(name, (name, *more)) for name, *more in tags]  # type: ignore[attr-defined]

    def _waits_for_web(self) -> bool:
        return not self._options().headless


def _command() -> str:
    """What makes the run again, from the checkout."""
    own = str(Path(__file__).with_name("locustfile.py"))
    return shlex.join(["locust", *("loadtests/locustfile.py" if word == own else word for word in sys.argv[1:])])
