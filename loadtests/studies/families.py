"""The families a simulation needs, found by name: manifest from a repository, durations from measured files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import loadtests
from loadtests.durations import Durations, DurationsError, read_durations
from loadtests.simulation.served import Served, served_family
from models.repository import Artifact, latest, open_repository

MEASURE = "python -m loadtests.measuring FAMILY-FOLDER FILE.json"


def measured_folder() -> Path:
    """Durations that ship with the project, NAME.json each."""
    return Path(loadtests.__file__ or "").parent / "measured"


def open_families(
    names: Iterable[str] | None, repository: Path, files: Sequence[Path] = (), batch_overhead_s: float = 0.0
) -> tuple[tuple[Served, ...], Mapping[str, Artifact]]:
    """The families of those names, or all that were measured, and their artifacts by name.

    Durations come from `files`, else from the measured ones. Raises `DurationsError` and `RepositoryError`.
    """
    artifacts = latest(open_repository(repository).artifacts)
    durations = {}
    for file in (*sorted(measured_folder().glob("*.json")), *files):
        found = read_durations(file)
        durations[found.family.partition("/")[0]] = found
    chosen = tuple(names) if names is not None else tuple(name for name in durations if name in artifacts)
    if not chosen:
        raise DurationsError(f"no family in {repository} has measured durations; measure one: {MEASURE}")
    served = tuple(_served(name, artifacts, durations, repository, batch_overhead_s) for name in chosen)
    return served, {name: artifacts[name] for name in chosen}


def _served(
    name: str,
    artifacts: Mapping[str, Artifact],
    durations: Mapping[str, Durations],
    repository: Path,
    batch_overhead_s: float,
) -> Served:
    if name not in artifacts:
        raise DurationsError(f"{repository} holds no family '{name}'; it holds: {', '.join(artifacts) or 'none'}")
    artifact = artifacts[name]
    found = durations.get(name)
    if found is None:
        raise DurationsError(
            f"no durations of '{name}' were measured; measure them with {MEASURE}, then --durations FILE"
        )
    if found.family != artifact.key:
        raise DurationsError(f"the durations are of {found.family}, but {repository} serves {artifact.key}; measure it")
    return served_family(artifact.family, found, batch_overhead_s=batch_overhead_s)
