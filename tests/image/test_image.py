"""What is in the image, and what it says of itself."""

import json
from typing import Any

import pytest

from tests.image.harness.engine import CERTIFICATES, ROOT, Engine

pytestmark = [pytest.mark.image, pytest.mark.timeout(1500)]

MOST_BYTES = 900_000_000
BUILDERS = ("pip", "pip3", "gcc", "cc", "g++", "make", "ld", "git", "curl")
CERTIFICATE_END = "-----END CERTIFICATE-----"
NEEDED = ("bash", "wget", "grep", "tini", "gearshift", "ray", "python3")
NEVER_SERVED = ("torch", "onnx", "scipy", "sklearn", "matplotlib", "locust", "pytest", "pip", "setuptools")


@pytest.fixture(scope="session")
def config(engine: Engine, image: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.image(image)
    return {**found["Config"], **{key: found[key] for key in ("Healthcheck",) if key in found}}


def inside(engine: Engine, image: str, *command: str, user: str = "10001") -> str:
    """What a command prints in a container of the image that has no network."""
    return engine("run", "--rm", "--network", "none", "--user", user, "--entrypoint", command[0], image, *command[1:])


def test_what_it_says_of_itself(config: dict[str, Any]) -> None:
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items() if "opencontainers" in key}
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    assert labels["title"] == "Gearshift"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == version.split('"')[1]
    assert len(labels["revision"].removesuffix("-changed")) in (40, len("unknown"))
    assert labels["created"].endswith("Z")


def test_how_it_starts_and_stops(config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "gearshift"]
    assert config["Cmd"] == ["serve"]
    assert config.get("StopSignal", "SIGTERM") in ("SIGTERM", "15")
    assert set(config["ExposedPorts"]) == {"8000/tcp", "8001/tcp", "8002/tcp"}
    assert list(config["Volumes"]) == ["/var/lib/gearshift"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    environment = dict(pair.split("=", 1) for pair in config["Env"])
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert not {name for name in environment if "CERT" in name or "PIP_" in name or "INDEX" in name}


def test_it_is_small(engine: Engine, image: str) -> None:
    script = "du --summarize --one-file-system --apparent-size --block-size=1 / 2>/dev/null | cut -f1"
    size = int(inside(engine, image, "bash", "-c", script, user="0"))
    assert 300_000_000 < size <= MOST_BYTES


def test_its_tools_are_there_and_no_others(engine: Engine, image: str) -> None:
    names = " ".join((*NEEDED, *BUILDERS))
    # A login shell sets PATH anew; KubeRay starts Ray in one.
    script = f'for name in {names}; do command -v "$name" >/dev/null && echo "$name"; done; true'
    assert inside(engine, image, "bash", "-lc", script).split() == list(NEEDED)


def test_its_packages(engine: Engine, image: str) -> None:
    code = (
        "import importlib.util as u, json, sys;print(json.dumps([name for name in sys.argv[1:] if u.find_spec(name)]))"
    )
    assert json.loads(inside(engine, image, "python3", "-c", code, *NEVER_SERVED)) == []
    found = json.loads(inside(engine, image, "python3", "-c", code, "ray", "onnxruntime", "serving", "deployments"))
    assert len(found) == 4


def test_all_of_its_bytecode_is_made(engine: Engine, image: str) -> None:
    """Nothing can be written later, so a module without would be compiled by every process that imports it."""
    code = """
import asyncio, importlib.util, pathlib, serving
for package in (asyncio, serving):
    for file in pathlib.Path(package.__file__).parent.glob("*.py"):
        if not pathlib.Path(importlib.util.cache_from_source(str(file))).exists():
            print(file)
"""
    assert inside(engine, image, "python3", "-c", code) == ""


def test_no_file_gives_another_users_rights(engine: Engine, image: str) -> None:
    script = r"find / -xdev -type f \( -perm /6000 -o -perm -0002 \) -print"
    assert inside(engine, image, "bash", "-c", script, user="0") == ""


def test_it_holds_nothing_of_the_builder(engine: Engine, image: str) -> None:
    """A build may need certificates and an index of its own; neither belongs into an image."""
    assert (
        inside(engine, image, "bash", "-c", "cat /etc/pip.conf; ls -A ~root/.cache /src /tools; true", user="0") == ""
    )
    trusted = inside(engine, image, "cat", str(CERTIFICATES), user="0")
    packaged = inside(engine, image, "bash", "-c", "cat /usr/share/ca-certificates/mozilla/*.crt", user="0")
    assert set(trusted.split(CERTIFICATE_END)) <= set(packaged.split(CERTIFICATE_END))
    assert len(trusted.split(CERTIFICATE_END)) > 50


def test_it_tells_its_version(engine: Engine, image: str) -> None:
    assert engine("run", "--rm", "--network", "none", "--read-only", image, "--version").startswith("gearshift ")


def test_a_wrong_setting_stops_it_with_one_line(engine: Engine, image: str) -> None:
    done = engine.run("run", "--rm", "--network", "none", "--env=GEARSHIFT_SERVER__HTP_PORT=1", image)
    assert done.returncode == 2
    assert "did you mean 'http_port'" in done.stderr
    assert "Traceback" not in done.stderr
