"""Which families a server serves, as its settings say."""

import logging
from pathlib import Path

from models.repository import MODEL_SUFFIX, Artifact, RepositoryError, bare_family, latest, open_repository
from serving.config import ModelSettings

log = logging.getLogger("gearshift.catalog")


def demo_repository() -> Path:
    """The families that ship with the project."""
    import models.zoo

    return Path(models.zoo.__file__).parent / "families"


def open_catalog(settings: ModelSettings) -> tuple[Artifact, ...]:
    """The artifacts to serve: of a folder, of one ONNX file, or the demo family.

    A version that cannot be served is told and left out. Raises `RepositoryError` when nothing is left.
    """
    source = settings.repository or demo_repository()
    if source.suffix == MODEL_SUFFIX and not source.is_dir():
        return (bare_family(source, name=settings.name),)
    listing = open_repository(source)
    for key, reason in listing.refused:
        log.error("not served: %s: %s", key, reason)
    if not listing.artifacts:
        reasons = "; ".join(reason for _, reason in listing.refused) or "it holds no NAME/VERSION/family.json"
        raise RepositoryError(f"{source}: nothing to serve: {reasons}")
    return listing.artifacts if settings.versions == "all" else tuple(latest(listing.artifacts).values())
