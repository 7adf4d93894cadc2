"""Servers for the whole suite, each started at the first test that asks for it and at most once.

`server` runs a test on each topology: without Ray, with two colocated Ray replicas, and split over Ray workers.
A test that is about one of them asks for `inprocess`, `ray_colocated` or `ray_split`. All of them serve the same
repository: the families of `tests.integration.harness.families` and the demo family. Profiles are measured once.

At the end each is stopped by SIGTERM, must exit with 0 and must leave no process. When a test fails, the end of
the log of every server it used is shown with it.
"""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from serving.catalog import demo_repository
from tests.integration.harness.families import publish_all
from tests.integration.harness.servers import Server, running

TOPOLOGIES = (
    "inprocess",
    pytest.param("ray_colocated", marks=pytest.mark.ray),
    pytest.param("ray_split", marks=pytest.mark.ray),
)


class Starter:
    """Starts servers for one test; those still running at its end are destroyed."""

    def __init__(self, folder: Path, repository: Path, cache: Path) -> None:
        self._folder = folder
        self._repository = repository
        self._cache = cache
        self.servers: list[Server] = []

    def __call__(self, *options: str, models: bool = True, **rest: object) -> Server:
        """A ready server with these options; `models` False: they say themselves what it serves."""
        chosen = ("--models", str(self._repository), *options) if models else options
        name = f"server {len(self.servers) + 1}"
        log = self._folder / f"server-{len(self.servers) + 1}.log"
        server = Server(name, chosen, cache=self._cache, log=log, **rest)  # type: ignore[arg-type]
        self.servers.append(server)
        return server.wait_ready()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The families every server of the suite serves."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(demo_repository() / "fashion", root / "fashion")
    publish_all(root)
    return root


@pytest.fixture(scope="session")
def profile_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where measured profiles are kept: only the first server measures."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="session")
def inprocess(repository: Path, profile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`gearshift serve --engine inprocess`."""
    yield from _session_server("inprocess", ("--engine", "inprocess"), repository, profile_cache, tmp_path_factory)


@pytest.fixture(scope="session")
def ray_colocated(repository: Path, profile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two gateway replicas under Ray Serve, each with its own models."""
    options = ("--engine", "ray", "--replicas", "2")
    yield from _session_server("ray_colocated", options, repository, profile_cache, tmp_path_factory)


@pytest.fixture(scope="session")
def ray_split(repository: Path, profile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gateway replica in front of two worker replicas."""
    options = ("--engine", "ray", "--topology", "split", "--workers", "2")
    yield from _session_server("ray_split", options, repository, profile_cache, tmp_path_factory)


@pytest.fixture(scope="session", params=TOPOLOGIES)
def server(request: pytest.FixtureRequest) -> Server:
    """Each topology in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def start(tmp_path: Path, repository: Path, profile_cache: Path) -> Iterator[Starter]:
    """Start servers of the test's own."""
    starter = Starter(tmp_path, repository, profile_cache)
    yield starter
    for server in starter.servers:
        server.destroy()


def _session_server(
    name: str, options: tuple[str, ...], repository: Path, cache: Path, folders: pytest.TempPathFactory
) -> Iterator[Server]:
    log = folders.mktemp(name) / "server.log"
    with running(Server(name, ("--models", str(repository), *options), cache=cache, log=log)) as server:
        yield server
        assert server.is_ready(), "the tests have left the server unable to serve"
        assert server.stop() == 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers of a failed test have written."""
    report = yield
    if report.failed:
        for used in getattr(item, "funcargs", {}).values():
            for server in used.servers if isinstance(used, Starter) else [used]:
                if isinstance(server, Server):
                    report.sections.append((f"log of {server.name}", server.log_tail()))
    return report
