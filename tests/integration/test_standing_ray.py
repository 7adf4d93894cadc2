"""What KubeRay does, on a real Ray of one node: the generated configuration, the fast ports, Ray's ingress, probes."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.run_folder import LEAVING
from tests.integration.harness.servers import ROOT, eventually
from tests.integration.harness.standing import StandingRay, standing_ray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
CALL = {"id": "mine", "inputs": [IMAGE], "parameters": {"max_latency_ms": 5000}}


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingRay]:
    with standing_ray(tmp_path_factory.mktemp("profiles")) as ray:
        ray.deploy(ray.config())
        yield ray


def infer(url: str) -> httpx.Response:
    headers = {"x-request-id": "by-the-caller"}
    return httpx.post(f"{url}/v2/models/fashion/infer", json=CALL, headers=headers, timeout=30)


def answered(ray: StandingRay) -> float:
    """Requests to the demo model that the node's page calls answered."""
    page = httpx.get(f"http://127.0.0.1:{ray.metrics_port}/metrics", timeout=10).raise_for_status().text
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "gearshift_outcome_total"
        and sample.labels["model"] == "fashion"
        and sample.labels["outcome"] in ("met", "late")
    )


def probe(ray: StandingRay, group: str, name: str) -> subprocess.CompletedProcess[str]:
    """Run a probe of the manifests, with the ports of this test."""
    cluster = yaml.safe_load((ROOT / "k8s/base/rayservice.yaml").read_text())["spec"]["rayClusterConfig"]
    spec = cluster["headGroupSpec"] if group == "head" else cluster["workerGroupSpecs"][0]
    command = spec["template"]["spec"]["containers"][0][name]["exec"]["command"]
    for port, ours in {
        ":8400/": ray.http_port,
        ":8000/": ray.ingress_port,
        ":8265/": ray.ports["dashboard-port"],
        ":52365/": ray.ports["dashboard-agent-listen-port"],
    }.items():
        command = [part.replace(port, f":{ours}/") for part in command]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_fast_port_and_rays_ingress_answer_alike(ray: StandingRay) -> None:
    before = answered(ray)
    for url in (ray.fast, ray.ingress):
        answer = infer(url)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["id"], told["model_name"], told["outputs"][0]["shape"]) == ("mine", "fashion", [1, 10])
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"] == "by-the-caller"
    assert answered(ray) == before + 2  # by one gateway, whose page knows of both


def test_the_fast_grpc_port_answers(ray: StandingRay) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{ray.grpc_port}") as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=30)
    assert ready == b"\x08\x01"  # ready: true


def test_errors_of_the_application_pass_rays_ingress(ray: StandingRay) -> None:
    answer = httpx.post(f"{ray.ingress}/v2/models/nothing/infer", json=CALL, timeout=30)
    assert answer.status_code == 404
    assert "Request for unknown model: 'nothing' is not found" in answer.json()["error"]


def test_nobody_deploys_without_the_token(ray: StandingRay) -> None:
    answer = httpx.put(f"{ray.dashboard}/api/serve/applications/", json=ray.config(), timeout=30)
    assert answer.status_code == 401


@pytest.mark.skipif(shutil.which("wget") is None, reason="the probes of the manifests call wget")
@pytest.mark.parametrize(
    ("group", "name"),
    [("head", "livenessProbe"), ("head", "readinessProbe"), ("worker", "livenessProbe"), ("worker", "readinessProbe")],
)
def test_the_probes_of_the_manifests_succeed(ray: StandingRay, group: str, name: str) -> None:
    ran = probe(ray, group, name)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(shutil.which("wget") is None, reason="the probes of the manifests call wget")
def test_a_node_that_is_asked_to_leave_is_unready_and_serves_on(ray: StandingRay) -> None:
    mark = ray.run_folder / LEAVING
    mark.touch()  # as preStop does
    try:
        eventually("the readiness probe fails", lambda: probe(ray, "worker", "readinessProbe").returncode != 0, 60)
        answer = infer(ray.fast)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        assert probe(ray, "worker", "livenessProbe").returncode == 0
    finally:
        mark.unlink()
    # Other settings are an upgrade in place: the gateway gives up its place to a new one, which is ready again.
    ray.deploy(ray.config(scheduler={"utilization": 0.8}))
    eventually("the readiness probe succeeds", lambda: probe(ray, "worker", "readinessProbe").returncode == 0, 120)
    assert infer(ray.fast).status_code == infer(ray.ingress).status_code == 200


def test_a_change_of_the_deployments_numbers_replaces_nothing(ray: StandingRay) -> None:
    before = _replicas(ray)
    config = ray.config(scheduler={"utilization": 0.8})
    config["applications"][0]["deployments"][0]["max_ongoing_requests"] = 5000
    ray.deploy(config)
    assert _replicas(ray) == before


def _replicas(ray: StandingRay) -> set[str]:
    state: dict[str, Any] = ray.dashboard_call("GET", "/api/serve/applications/").json()
    gateway = state["applications"]["gearshift"]["deployments"]["gateway"]
    return {replica["replica_id"] for replica in gateway["replicas"]}
