"""Pods keep to the restricted profile, carry no token, and are reached by nobody but who should."""

import itertools
from typing import Any

import pytest

from tests.support.manifests import (
    OVERLAYS,
    SERVING,
    Resource,
    gateways,
    head,
    of_kind,
    pod_templates,
    rayservice,
    rendered,
    selects,
)

ANYBODY = "anybody"
SERVE, GCS, CLIENT, DASHBOARD, RAY_METRICS = 8000, 6379, 10001, 8265, 8080
FAST_HTTP, FAST_GRPC, FAST_METRICS = 8400, 8401, 8402


def containers(template: Resource) -> list[Resource]:
    return [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]


def restricted(context: Resource) -> bool:
    return (
        context.get("allowPrivilegeEscalation") is False
        and context.get("capabilities", {}).get("drop") == ["ALL"]
        and context.get("readOnlyRootFilesystem") is True
        and not context.get("privileged")
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_profile(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        spec = template["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] != 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert all("hostPath" not in volume for volume in spec.get("volumes", [])), name
        for container in containers(template):
            assert restricted(container["securityContext"]), name
            assert all("hostPort" not in port for port in container.get("ports", [])), name


@pytest.mark.parametrize("overlay", SERVING)
def test_the_namespace_insists_on_the_profile(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    options = rayservice(overlay)["spec"]["rayClusterConfig"].get("autoscalerOptions")
    assert options is None or restricted(options["securityContext"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_has_a_token_but_the_head_that_scales(overlay: str) -> None:
    for account in of_kind(overlay, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    for name, template in pod_templates(overlay):
        scales = overlay == "overlays/prod" and name == "RayService/gearshift head"
        assert template["spec"]["automountServiceAccountToken"] is scales, name
        # A Service called gearshift would put GEARSHIFT_PORT and more into the environment: refused as settings.
        assert template["spec"]["enableServiceLinks"] is False, name


@pytest.mark.parametrize("overlay", SERVING)
def test_rays_ports_ask_for_a_token(overlay: str) -> None:
    assert rayservice(overlay)["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_secrets_are_only_named() -> None:
    assert not any(found["kind"] == "Secret" for overlay in OVERLAYS for found in rendered(overlay))


@pytest.mark.parametrize("overlay", SERVING)
def test_who_reaches_a_gateway(overlay: str) -> None:
    reach = ingress(overlay, gateways(overlay))
    assert reach[ANYBODY] == {SERVE, FAST_HTTP, FAST_GRPC}
    assert reach["namespace monitoring"] == {FAST_METRICS, RAY_METRICS}
    assert reach.keys() == {ANYBODY, "namespace monitoring", "pods gearshift"}


@pytest.mark.parametrize("overlay", SERVING)
def test_who_reaches_the_head(overlay: str) -> None:
    reach = ingress(overlay, head(overlay))
    assert ANYBODY not in reach
    assert reach["pods kuberay-operator"] == {DASHBOARD, SERVE}
    assert reach["namespace monitoring"] == {RAY_METRICS}
    outsiders = [ports for who, ports in reach.items() if who != "pods gearshift"]
    assert not {GCS, CLIENT} & set().union(*(ports or set() for ports in outsiders))


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay != "overlays/monitoring"])
def test_every_pod_is_behind_a_policy_for_both_ways(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy").values()
    for name, template in pod_templates(overlay):
        ways = itertools.chain.from_iterable(
            policy["spec"]["policyTypes"] for policy in policies if selects(policy["spec"]["podSelector"], template)
        )
        assert {"Ingress", "Egress"} <= set(ways), name


@pytest.mark.parametrize("overlay", SERVING)
def test_a_gateway_may_only_call_its_cluster_and_ask_for_names(overlay: str) -> None:
    allowed = egress(overlay, gateways(overlay))
    assert allowed == {"pods gearshift": None, "namespace kube-system": {53}}


def ingress(overlay: str, template: Resource) -> dict[str, set[int] | None]:
    """Who may reach a pod on which ports (None: all), by all policies that select it."""
    return _allowed(overlay, template, "ingress", "from")


def egress(overlay: str, template: Resource) -> dict[str, set[int] | None]:
    """Whom a pod may reach on which ports."""
    return _allowed(overlay, template, "egress", "to")


def _allowed(overlay: str, template: Resource, way: str, peers: str) -> dict[str, set[int] | None]:
    allowed: dict[str, set[int] | None] = {}
    for policy in of_kind(overlay, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        if "matchExpressions" in selector or not selects(selector, template):
            continue  # by Ray's own labels, which KubeRay adds: Redis, see the component
        for rule in policy["spec"].get(way, []):
            ports = {port["port"] for port in rule["ports"]} if "ports" in rule else None
            for peer in rule.get(peers, [None]):
                who = _who(peer)
                known = allowed.setdefault(who, set())
                allowed[who] = None if ports is None or known is None else known | ports
    return allowed


def _who(peer: Any) -> str:
    if peer is None:
        return ANYBODY
    namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    if namespace is not None:
        return f"namespace {namespace}"
    return f"pods {peer['podSelector']['matchLabels']['app.kubernetes.io/name']}"
