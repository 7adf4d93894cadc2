"""A study as it is handed on: results, their summary, and how to get them again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.studies.results import CellResult
from loadtests.studies.summary import Group, summarise
from models.drafts import write_whole

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Study:
    """Everything a report tells."""

    title: str
    command: str
    """What makes it again."""
    complete: bool
    """Whether every cell has every seed; not so after Ctrl-C."""
    overhead: bool
    """Whether the gateway's own time was simulated."""
    provenance: Mapping[str, str]
    results: Sequence[CellResult]
    """At least one."""

    @property
    def groups(self) -> list[Group]:
        """See `summarise`."""
        return summarise(self.results)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "format": FORMAT,
            "title": self.title,
            "command": self.command,
            "complete": self.complete,
            "overhead": self.overhead,
            "provenance": dict(self.provenance),
            "summary": [group.facts() for group in self.groups],
            "cells": [result.facts() for result in self.results],
        }


def write_json(file: Path, study: Study) -> None:
    """Write the study as JSON, whole or not at all. Raises `OSError`."""
    write_whole(file, (json.dumps(study.facts(), indent=1, allow_nan=False) + "\n").encode())
