"""What may be asked about the set of served models: which there are, load one, unload one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of a model in the repository, as Triton's repository index tells it."""

    name: str
    version: str
    """Empty where the model was never loaded: its versions are not looked into."""
    state: State
    reason: str = ""
    """Why it is not ready."""


class ModelControl(Protocol):
    """The repository behind a gateway. HTTP and gRPC ask it alike."""

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """Every version known, ready or not, by name and rising version."""
        ...

    async def load(self, model: str, parameters: Mapping[str, str | int | bool] | None = None) -> None:
        """Load a model, or the repository's present state of it, and return when it serves.

        Raises `ControlRefused` when the mode or the artifacts do not allow it; what served before goes on serving.
        """
        ...

    async def unload(self, model: str) -> None:
        """Stop offering a model; requests it has accepted are answered. Raises `ControlRefused`."""
        ...
