"""Ports, names, selectors, probes and environment say what the code says, and what the rest of the manifests says."""

import re
from typing import Any

import pytest
import yaml

from serving.config import Settings, load_settings
from serving.run_folder import LEAVING
from tests.support.manifests import (
    K8S,
    OVERLAYS,
    SERVING,
    Resource,
    gateways,
    head,
    of_kind,
    pod_templates,
    rayservice,
    read_env,
    rendered,
    selects,
    settings_of,
    sources,
)

TAG = re.compile(r"\d+\.\d+\.\d+[\w.-]*")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def settings(overlay: str) -> Settings:
    return load_settings(environ=settings_of(overlay))


def ports(template: Resource) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}


def command(template: Resource, *path: str) -> str:
    found: Any = template["spec"]["containers"][0]
    for key in path:
        found = found[key]
    return str(found["exec"]["command"][-1])


def serve_config(overlay: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(rayservice(overlay)["spec"]["serveConfigV2"])
    return config


@pytest.mark.parametrize("overlay", SERVING)
def test_the_settings_are_settings(overlay: str) -> None:
    chosen = settings(overlay)  # refuses names and values that are none
    assert chosen.server.host == "0.0.0.0"
    assert chosen.engine.replicas_per_node == 1


@pytest.mark.parametrize("overlay", SERVING)
def test_the_gateways_ports_are_those_of_the_settings(overlay: str) -> None:
    server, declared = settings(overlay).server, ports(gateways(overlay))
    assert (declared["fast-http"], declared["fast-grpc"], declared["fast-metrics"]) == (
        server.http_port, server.grpc_port, server.metrics_port,
    )  # fmt: skip
    assert declared["serve"] == serve_config(overlay)["http_options"]["port"]


@pytest.mark.parametrize("overlay", SERVING)
def test_the_services_offer_the_usual_ports(overlay: str) -> None:
    usual, declared = Settings().server, ports(gateways(overlay))
    service = of_kind(overlay, "Service")["gearshift"]["spec"]
    assert {port["name"]: (port["port"], port["targetPort"]) for port in service["ports"]} == {
        "http": (usual.http_port, "fast-http"),
        "grpc": (usual.grpc_port, "fast-grpc"),
        "metrics": (usual.metrics_port, "fast-metrics"),
    }
    for name in ("gearshift", "gearshift-pods"):
        found = of_kind(overlay, "Service")[name]["spec"]
        assert selects({"matchLabels": found["selector"]}, gateways(overlay))
        assert not selects({"matchLabels": found["selector"]}, head(overlay))
        assert {port["targetPort"] for port in found["ports"]} <= declared.keys()
    for port in of_kind(overlay, "Service")["gearshift-pods"]["spec"]["ports"]:
        assert port["port"] == declared[port["targetPort"]], "a headless Service maps nothing"
    (standard,) = rayservice(overlay)["spec"]["serveService"]["spec"]["ports"]
    assert standard["port"] == standard["targetPort"] == declared["serve"]


@pytest.mark.parametrize("overlay", SERVING)
def test_the_head_runs_nothing_of_ours(overlay: str) -> None:
    spec = rayservice(overlay)["spec"]
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["excludeHeadPodFromServeSvc"] is True
    (application,) = serve_config(overlay)["applications"]
    for deployment in application["deployments"]:
        assert deployment["ray_actor_options"]["num_cpus"] > 0


@pytest.mark.parametrize("overlay", SERVING)
def test_there_is_a_worker_for_each_gateway(overlay: str) -> None:
    (application,) = serve_config(overlay)["applications"]
    (gateway,) = application["deployments"]
    (group,) = rayservice(overlay)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    scaling = gateway.get("autoscaling_config")
    if scaling is None:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] == gateway["num_replicas"]
    else:
        bounds = (scaling["min_replicas"], scaling["initial_replicas"], scaling["max_replicas"])
        assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == bounds
        assert rayservice(overlay)["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    assert gateway["max_replicas_per_node"] == settings(overlay).engine.replicas_per_node


@pytest.mark.parametrize("overlay", SERVING)
def test_ready_is_the_gateway_and_the_proxy(overlay: str) -> None:
    probe = command(gateways(overlay), "readinessProbe")
    assert f"127.0.0.1:{settings(overlay).server.http_port}/v2/health/ready" in probe
    assert f"127.0.0.1:{serve_config(overlay)['http_options']['port']}/-/healthz" in probe
    for template in (head(overlay), gateways(overlay)):
        assert "127.0.0.1:52365/api/local_raylet_healthz" in command(template, "livenessProbe")
        assert command(template, "startupProbe") == command(template, "livenessProbe")


@pytest.mark.parametrize("overlay", SERVING)
def test_a_pod_that_goes_tells_its_gateway_and_waits(overlay: str) -> None:
    chosen, template = settings(overlay), gateways(overlay)
    hook = command(template, "lifecycle", "preStop")
    mark = chosen.run_folder / LEAVING
    assert f"touch {mark};" in hook
    assert hook.endswith(f"rm -f {mark}"), "the folder outlives a restart of the container"
    (waits,) = re.findall(r"sleep (\d+)", hook)
    probe = template["spec"]["containers"][0]["readinessProbe"]
    noticed_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert min(int(waits), chosen.server.lame_duck_s) > noticed_s
    ray_drains_s = 30
    assert template["spec"]["terminationGracePeriodSeconds"] > int(waits) + ray_drains_s
    (gateway,) = serve_config(overlay)["applications"][0]["deployments"]
    assert gateway["graceful_shutdown_timeout_s"] > chosen.server.lame_duck_s + chosen.server.drain_s
    assert gateway["graceful_shutdown_timeout_s"] < ray_drains_s


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_refer_to_is_there_or_asked_for(overlay: str) -> None:
    maps = of_kind(overlay, "ConfigMap").keys()
    claims = of_kind(overlay, "PersistentVolumeClaim").keys()
    accounts = of_kind(overlay, "ServiceAccount").keys() or of_kind("overlays/dev", "ServiceAccount").keys()
    readme = (K8S / "README.md").read_text(encoding="utf-8")
    for name, template in pod_templates(overlay):
        spec = template["spec"]
        assert spec["serviceAccountName"] in accounts, name
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        volumes |= {"data"} if name == "StatefulSet/gearshift-redis" else set()
        for container in spec["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in maps, name
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
        for secret in re.findall(r"'(?:secretName|secretKeyRef|secretRef)': (?:\{.*?'name': )?'([\w-]+)'", str(spec)):
            assert f"create secret generic {secret}" in readme.replace("\\\n", ""), f"{name}: nobody makes {secret}"


@pytest.mark.parametrize("overlay", SERVING)
def test_every_pod_has_the_settings_and_rays_environment(overlay: str) -> None:
    assert [name.rsplit("-", 1)[0] for name in _config_maps(head(overlay))] == ["gearshift-settings", "gearshift-ray"]
    assert _config_maps(gateways(overlay)) == _config_maps(head(overlay)), "the head builds the application"
    data = of_kind(overlay, "ConfigMap")[_config_maps(head(overlay))[1]]["data"]
    assert data == read_env(K8S / "base/ray.env")


@pytest.mark.parametrize("overlay", SERVING)
def test_cores_that_are_planned_with_are_given(overlay: str) -> None:
    resources = gateways(overlay)["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_pinned(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        for container in template["spec"]["containers"]:
            image = container["image"]
            tag = image.rpartition(":")[2]
            assert TAG.fullmatch(tag) or DIGEST.fullmatch(image.rpartition("@")[2]), f"{name}: {image}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_bounded(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        for container in template["spec"]["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
        for volume in template["spec"].get("volumes", []):
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], f"{name}: {volume['name']}"


@pytest.mark.parametrize("overlay", SERVING)
def test_gateways_are_spread_and_a_drain_takes_one_at_a_time(overlay: str) -> None:
    template = gateways(overlay)
    spread = template["spec"]["topologySpreadConstraints"]
    assert {rule["topologyKey"] for rule in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(selects(rule["labelSelector"], template) for rule in spread)
    (budget,) = of_kind(overlay, "PodDisruptionBudget").values()
    assert selects(budget["spec"]["selector"], template)
    assert not selects(budget["spec"]["selector"], head(overlay)), "a drain would wait for the head for ever"
    assert budget["spec"]["maxUnavailable"] == 1


def test_the_monitors_scrape_ports_that_are_there() -> None:
    monitors = of_kind("overlays/monitoring", "PodMonitor")
    for name, templates in {
        "gearshift": [gateways("overlays/dev")],
        "gearshift-ray": [gateways("overlays/dev"), head("overlays/dev")],
    }.items():
        (endpoint,) = monitors[name]["spec"]["podMetricsEndpoints"]
        for template in templates:
            assert selects(monitors[name]["spec"]["selector"], template)
            assert endpoint["port"] in ports(template)


def test_grafana_finds_every_dashboard() -> None:
    # A new one has to be named in monitoring/kustomization.yaml.
    committed = {
        path.name: path.read_text(encoding="utf-8") for path in (K8S.parent / "monitoring/dashboards").iterdir()
    }
    (dashboards,) = of_kind("overlays/monitoring", "ConfigMap").values()
    assert dashboards["data"] == committed
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_locust_calls_the_service_with_a_scenario_that_is_there() -> None:
    (run,) = of_kind("overlays/loadtest", "ConfigMap").values()
    services = of_kind("overlays/dev", "Service")
    url = run["data"]["LOCUST_HOST"]
    assert url == f"http://gearshift:{services['gearshift']['spec']['ports'][0]['port']}"
    assert (K8S.parent / "loadtests" / run["data"]["GEARSHIFT_SCENARIO"]).is_file()
    jobs = of_kind("overlays/loadtest", "Job")
    (master,) = of_kind("overlays/loadtest", "Service").values()
    workers = jobs["gearshift-loadtest-workers"]["spec"]
    assert (
        str(workers["parallelism"])
        in jobs["gearshift-loadtest-master"]["spec"]["template"]["spec"]["containers"][0]["args"]
    )
    assert master["metadata"]["name"] in workers["template"]["spec"]["containers"][0]["args"]
    assert selects({"matchLabels": master["spec"]["selector"]}, jobs["gearshift-loadtest-master"]["spec"]["template"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_one_namespace(overlay: str) -> None:
    for found in rendered(overlay):
        if found["kind"] == "Namespace":
            assert found["metadata"]["name"] == "gearshift"
        else:
            assert found["metadata"]["namespace"] == "gearshift", found["metadata"]["name"]


def _config_maps(template: Resource) -> list[str]:
    return [source["configMapRef"]["name"] for source in sources(template) if "configMapRef" in source]
