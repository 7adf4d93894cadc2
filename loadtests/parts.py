"""Parts of a scenario: what each process of a live run sends, and the classes that tags choose."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from loadtests.scenario import Scenario, ScenarioError, read_scenario
from loadtests.target import capacities
from loadtests.workload import Call, calls


@dataclass(slots=True)
class Plan:
    """What this process sends, and all it needs for it."""

    scenario: Scenario
    digest: str
    seed: int
    models: dict[str, dict[str, Any]]
    kinds: frozenset[str]
    """Names of the classes that are sent; `--tags` leave the others out."""
    place: int = 0
    parts: int = 1
    start_s: float = 0.0

    def calls(self) -> Iterator[Call]:
        """This process's part of the stream."""
        stream = calls(self.scenario, capacities(self.models, self.scenario), self.seed)
        chosen = (call for call in stream if call.kind in self.kinds)
        return islice(chosen, self.place, None, self.parts)


def tags_of(scenario: Scenario) -> list[list[str]]:
    """Name and model of each class: the tags of its task."""
    return [[entry.name, entry.model] for entry in scenario.classes]


def task_of(name: str, tags: Iterable[str]) -> Any:
    """A task of locust's that plays the whole part of its process, whichever class it stands for."""

    def play(user: Any) -> None:
        user.environment.conductor.play()

    play.__name__ = name
    vars(play)["locust_tag_set"] = set(tags)
    return play


def chosen_classes(scenario: Scenario, tags: list[str] | None, exclude_tags: list[str] | None) -> frozenset[str]:
    """Names of the classes that the tags leave, by locust's rules. Raises `ScenarioError` when there are none."""
    wanted, unwanted = set(tags or ()), set(exclude_tags or ())
    left = frozenset(
        entry.name
        for entry in scenario.classes
        if (not wanted or wanted & {entry.name, entry.model}) and not unwanted & {entry.name, entry.model}
    )
    if not left:
        known = sorted({entry.name for entry in scenario.classes} | set(scenario.models()))
        raise ScenarioError(f"the tags leave no class of scenario '{scenario.name}'; its tags are: {', '.join(known)}")
    return left


def read_with_digest(path: str, trace: str | None) -> tuple[Scenario, str]:
    """The scenario, and a digest of its file: processes must have the same. Raises `ScenarioError`."""
    scenario = read_scenario(Path(path), Path(trace) if trace else None)
    return scenario, hashlib.sha256(Path(path).read_bytes()).hexdigest()
