"""The image, built once from this tree as `make image` does, and containers of it."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.image.harness.container import Container, running
from tests.image.harness.engine import Engine, NoEngineError, build, find_engine

BUILD_S = 900.0


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gearshift-image"


@pytest.fixture(scope="session")
def found() -> tuple[Engine, str]:
    """An engine and a base image. What it has stored stays for the next run: layers are found by their contents."""
    try:
        return find_engine(_cache())
    except NoEngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def engine(found: tuple[Engine, str]) -> Engine:
    """What builds and runs images here."""
    return found[0]


@pytest.fixture(scope="session")
def image(found: tuple[Engine, str]) -> Iterator[str]:
    """The tag of the image of this tree."""
    engine, base = found
    tag = f"localhost/gearshift:test-{os.getpid()}"
    build(engine, base, tag, timeout_s=BUILD_S)
    yield tag
    engine.run("rmi", tag)
    engine.run("image", "prune", "-f", "--filter", "until=72h")


@pytest.fixture(scope="session")
def home(engine: Engine) -> Iterator[str]:
    """A volume for HOME that all containers share, so that only the first measures the models."""
    name = f"gearshift-test-{os.getpid()}"
    engine("volume", "create", name)
    yield name
    engine.run("volume", "rm", "-f", name)


@pytest.fixture(scope="session")
def server(engine: Engine, image: str, home: str) -> Iterator[Container]:
    """The image as it is started by default: on Ray, models inside the gateway."""
    options = ("--memory", "2g", "--cpus", "2", "--volume", f"{home}:/var/lib/gearshift")
    with running(engine, image, f"gearshift-colocated-{os.getpid()}", options=options) as container:
        yield container


@pytest.fixture(scope="session")
def split(engine: Engine, image: str, home: str, server: Container) -> Iterator[Container]:
    """Models in workers of their own, on one core; `server` has measured the models."""
    options = ("--memory", "2g", "--cpus", "1", "--volume", f"{home}:/var/lib/gearshift")
    settings = {"GEARSHIFT_ENGINE__TOPOLOGY": "split"}
    with running(engine, image, f"gearshift-split-{os.getpid()}", options=options, settings=settings) as container:
        yield container


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the containers of a failed test have written."""
    report = yield
    if report.failed:
        for used in getattr(item, "funcargs", {}).values():
            if isinstance(used, Container):
                report.sections.append((f"log of {used.name}", used.log()))
    return report
