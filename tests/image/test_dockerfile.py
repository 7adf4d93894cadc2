"""The Dockerfile against its linter and against the sources it is built from; no engine is needed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from serving.config import ServerSettings, Settings, load_settings
from tests.image.harness.engine import ROOT, published_base

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(linter), "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_one_python_and_can_be_given_a_digest() -> None:
    assert re.fullmatch(r"docker\.io/library/python:3\.1[12]\.\d+-slim-bookworm", published_base())
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]


def test_every_package_is_copied_and_let_through() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE)
    assert sorted(copied) == sorted(packages)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    assert {f"!{package}" for package in packages} < set(allowed)
    for file in re.findall(r"^COPY (pyproject.toml .*) \./$", DOCKERFILE, re.MULTILINE)[0].split():
        assert f"!{file}" in allowed
        assert (ROOT / file).exists()


def test_the_build_backend_is_locked_at_the_projects_version() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    assert (ROOT / "requirements" / "build.in").read_text().split() == [backend]
    assert f"{backend} \\\n" in (ROOT / "requirements" / "build.lock").read_text()


def test_all_locks_agree() -> None:
    def versions(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        return dict(re.findall(r"^([\w.\[\],-]+)==(\S+)", text, re.MULTILINE))

    serve = versions("serve")
    assert len(serve) > 50
    for lock in ("cloud", "loadtest"):
        assert serve.items() <= versions(lock).items()


def test_the_serving_lock_has_nothing_of_training() -> None:
    names = re.findall(r"^([\w.-]+)", (ROOT / "requirements" / "serve.lock").read_text(), re.MULTILINE)
    assert not {"torch", "onnx", "scipy", "scikit-learn", "matplotlib", "locust", "pip"} & set(names)


def test_variables_are_settings_and_ports_the_defaults() -> None:
    environment = dict(re.findall(r"(GEARSHIFT_\w+)=([^\s\\]+)", DOCKERFILE))
    assert load_settings(environ=environment).server.host == "0.0.0.0"
    defaults = sorted(
        str(getattr(Settings().server, name)) for name in ServerSettings.model_fields if name.endswith("_port")
    )
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed is not None
    assert set(defaults) <= set(exposed[1].split()) <= {"8000", "8001", "8002"}
    for used in re.findall(r"\$\{(GEARSHIFT_\w+):", DOCKERFILE):
        section, _, key = used.removeprefix("GEARSHIFT_").lower().partition("__")
        assert key in type(getattr(Settings(), section)).model_fields
