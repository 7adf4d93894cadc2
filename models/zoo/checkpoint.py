"""What is kept of a training run: its state after each epoch, then its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file that belongs to one run: what other settings left there is not read, and replaced."""

    file: Path
    run: Mapping[str, Any]
    """The settings, as plain values."""

    def read(self) -> dict[str, Any] | None:
        """The state; None where there is none of this very run."""
        if not self.file.exists():
            return None
        state: dict[str, Any] = torch.load(self.file, weights_only=True)
        if state["run"] != self.run:
            print(f"{self.run['net']}: {self.file.name} is of a run with other settings and will be replaced")
            return None
        return state

    def write(self, **state: Any) -> None:
        """Keep a state so that a kill leaves the old one or the new one, never half of one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".draft")
        torch.save({"run": dict(self.run), **state}, draft)
        draft.replace(self.file)

    def remove(self) -> None:
        """Forget the state."""
        self.file.unlink(missing_ok=True)
