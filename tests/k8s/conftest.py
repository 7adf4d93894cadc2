"""The manifests as kustomize renders them; without kustomize nothing here can be said."""

from pathlib import Path

import pytest

from tests.support.manifests import kustomize


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="neither `kustomize` nor a `kubectl` with kustomize 5 is installed")
    for item in items:
        if Path(__file__).parent in item.path.parents and kustomize() is None:
            item.add_marker(skip)
