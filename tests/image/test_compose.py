"""The local stack: its names, ports, paths and settings against the code, and against compose itself where it is."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deployments.server import STOP_MARGIN_S
from serving.config import ServerSettings, Settings, load_settings
from tests.image.harness.engine import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def bound(service: str) -> dict[str, Path]:
    """Files of the tree by where the service sees them."""
    pairs = [volume.split(":") for volume in SERVICES[service]["volumes"] if volume.startswith("./")]
    assert all(pair[2] == "ro" for pair in pairs)
    return {pair[1]: ROOT / pair[0] for pair in pairs}


def test_everything_is_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service["ports"]]
    assert len(published) == 6
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)


def test_services_have_no_rights_and_write_to_volumes_only() -> None:
    named = set(COMPOSE["volumes"])
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {volume.split(":")[0] for volume in service.get("volumes", ()) if volume[0] != "."} <= named


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        _, _, tag = service["image"].partition(":")
        assert re.match(r"v?\d+\.\d+\.\d+", tag), name
        if "build" in service:
            lock = "serve" if service["build"] == "." else service["build"]["args"]["LOCK"]
            assert tag == VERSION + ("" if lock == "serve" else f"-{lock}")
            assert (ROOT / "requirements" / f"{lock}.lock").exists()


def test_the_gateway_is_published_where_it_listens() -> None:
    defaults = Settings().server
    ports = {str(getattr(defaults, name)) for name in ServerSettings.model_fields if name.endswith("_port")}
    assert {port.rpartition(":")[2] for port in SERVICES["gateway"]["ports"]} == ports
    load_settings(environ=SERVICES["gateway"].get("environment", {}))


def test_the_grace_of_a_stop_covers_the_drain() -> None:
    settings = Settings().server
    grace_s = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.lame_duck_s + settings.drain_s + STOP_MARGIN_S


def test_prometheus_scrapes_the_gateway_and_finds_its_rules() -> None:
    files = bound("prometheus")
    options = dict(option.split("=", 1) for option in SERVICES["prometheus"]["command"])
    config = files[options["--config.file"]]
    loaded = yaml.safe_load(config.read_text())
    targets = {target for job in loaded["scrape_configs"] for one in job["static_configs"] for target in one["targets"]}
    assert targets == {f"gateway:{Settings().server.metrics_port}"}
    rules = [Path(options["--config.file"]).parent / rule for rule in loaded["rule_files"]]
    assert rules
    assert all(files[str(rule)].exists() for rule in rules)
    assert f"metrics:{options['--storage.tsdb.path']}" in SERVICES["prometheus"]["volumes"]


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    files = bound("grafana")
    provisioning = files["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    url = urlsplit(source["url"])
    assert url.hostname in SERVICES
    assert url.port == int(SERVICES[str(url.hostname)]["ports"][0].rpartition(":")[2])
    for provider in yaml.safe_load((provisioning / "dashboards" / "gearshift.yaml").read_text())["providers"]:
        assert list(files[provider["options"]["path"]].glob("*.json"))
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder, _, name = home.rpartition("/")
    assert (files[folder] / name).exists()


def test_locust_plays_a_scenario_against_the_gateway() -> None:
    command = SERVICES["locust"]["command"]
    options = dict(zip(command[::2], command[1::2], strict=True))
    host = urlsplit(options["--host"])
    assert (host.hostname, host.port) == ("gateway", Settings().server.http_port)
    scenario = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", options["--scenario"])
    assert (ROOT / "loadtests" / scenario).exists()


def test_services_wait_for_services_that_tell_their_health() -> None:
    image_checks = {"gateway", "locust"}
    for service in SERVICES.values():
        for needed in service.get("depends_on", {}):
            assert needed in image_checks or "healthcheck" in SERVICES[needed]


def test_compose_accepts_it() -> None:
    for command in (["docker", "compose"], ["docker-compose"], ["podman-compose"]):
        version = [*command, "version"]
        if shutil.which(command[0]) and subprocess.run(version, capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no compose command here: the file is compared with the code, but not read by compose")
    profile = ["--profile", "loadtest", "-f", str(ROOT / "compose.yaml"), "config"]
    done = subprocess.run([*command, *profile], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
