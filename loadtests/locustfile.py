# mypy: allow-subclassing-any
"""Scenarios against a live gateway, for locust: `locust -f loadtests/locustfile.py --scenario FILE --host URL`.

Headless, with the web UI, and over several processes (`--processes`, or `--master` and `--worker`). Statistics are
listed by class; times count from the intended send; whatever is not answered in time is a failure. `--tags` and
`--exclude-tags` choose classes by their names or models.
"""

import sys
from argparse import ArgumentParser
from typing import Any

from gevent.hub import Hub
from locust import User, events
from locust.env import Environment

from loadtests.conductor import Conductor
from loadtests.scenario import ScenarioError
from loadtests.shapes import ScenarioShape

__all__ = ["ScenarioShape", "ScenarioUser"]

# Ctrl-C may fall into any greenlet. It stops the run from there as well, and nobody wants to see where it fell.
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)


class ScenarioUser(User):
    """Sends its process's part of the scenario; its tasks are the classes, known when the scenario is read."""

    tasks: list[Any] = []  # noqa: RUF012  # locust declares it so


def add_arguments(parser: ArgumentParser, **_: Any) -> None:
    """Our options beside locust's own; a worker gets them from its master."""
    parser.add_argument(
        "--scenario", metavar="FILE", default="", env_var="GEARSHIFT_SCENARIO", include_in_web_ui=False,
        help="TOML file of the scenario. A worker that is given none takes its master's.",
    )  # fmt: skip
    parser.add_argument(
        "--trace", metavar="FILE", default="", env_var="GEARSHIFT_TRACE", include_in_web_ui=False,
        help="CSV file in place of the one a trace scenario names.",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=None, env_var="GEARSHIFT_SEED", include_in_web_ui=False,
        help="Of arrivals, classes and payloads. Default: the scenario's.",
    )  # fmt: skip
    parser.add_argument(
        "--run-json", metavar="FILE", default="", env_var="GEARSHIFT_RUN_JSON", include_in_web_ui=False,
        help="Where the run is written: metrics, the sender's health, every request.",
    )  # fmt: skip
    parser.add_argument("--label", default="", help="What to call the run, such as the policy the server runs.")
    parser.add_argument(
        "--connections", type=int, default=256, include_in_web_ui=False,
        help="Most requests under way at the same time, of each process.",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=30.0, include_in_web_ui=False,
        help="Seconds after which a request without an answer has failed.",
    )  # fmt: skip


def conduct(environment: Environment, **_: Any) -> None:
    """Every process has its conductor; a scenario that cannot be read ends it with a clear word."""
    try:
        environment.conductor = Conductor(environment, ScenarioUser)
    except ScenarioError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


events.init_command_line_parser.add_listener(add_arguments)
events.init.add_listener(conduct)
