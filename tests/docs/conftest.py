from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.blocks import ROOT
from docs.examples import prepare, running_server


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway of the demo family, for the whole session."""
    with running_server(tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("profiles")) as address:
        yield address


@pytest.fixture
def work_folder(tmp_path: Path) -> Path:
    """Where a reader of the pages would stand."""
    prepare(tmp_path)
    return tmp_path
