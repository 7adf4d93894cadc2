"""Where a repository is: a path of this host, or the URL of a place elsewhere."""

import re
from pathlib import Path


def is_url(place: str) -> bool:
    """Whether an address names a file system, as in s3://bucket/models."""
    return re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


def to_place(text: str) -> Path | str:
    """A URL stays a text; whatever else is a path."""
    return text if is_url(text) else Path(text)
