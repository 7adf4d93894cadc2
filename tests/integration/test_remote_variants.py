"""Edge and cloud: a family whose best variant is a model of another server, which comes and goes."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.manifest import Cascade, Family, Remote, Variant
from models.repository import open_family, publish
from tests.integration.harness.families import SCALE_TAGS
from tests.integration.harness.servers import Server, eventually
from tests.integration.harness.wire import outputs_of, scale_request

ROWS = np.array([[1.0, 2.0, 3.0, 4.0]])
CLOUD_TAG = SCALE_TAGS["exact"]
LATENCY_MS = 20_000.0
"""These tests share a busy machine; nothing here is about time."""
BACK_WITHIN_S = 90.0
CALLERS = 4

Start = Callable[..., Server]


def edge_family(repository: Path, url: str) -> tuple[Family, dict[str, bytes]]:
    """`scale` with its two quick variants here, the exact one at `url`, and a cascade of the two."""
    whole = open_family(repository / "scale" / "1")
    here = [variant for variant in whole.family.variants if variant.name != "exact"]
    remote = Remote(url=url, model="scale", variant="exact", timeout_ms=LATENCY_MS)
    rule = Cascade(
        first="quick", then="medium", output="y", scores="logits", confidence="max", threshold=0.9, escalation=0.5
    )
    more = (
        Variant(name="cloud", remote=remote, accuracy=0.9),
        Variant(name="both", cascade=rule, accuracy=0.75),
    )
    family = whole.family.model_copy(update={"variants": (*here, *more)})
    return family, {variant.file: whole.read(variant) for variant in here}


@pytest.fixture
def edge_repository(tmp_path: Path, repository: Path) -> Callable[[str], Path]:
    def make(url: str) -> Path:
        family, files = edge_family(repository, url)
        publish(tmp_path / "edge", family, files)
        return tmp_path / "edge"

    return make


def ask(server: Server, rows: np.ndarray = ROWS, **parameters: Any) -> tuple[dict[str, Any], list[int]]:
    """The answer's parameters and the tag of each row, after its numbers were checked."""
    request = scale_request(rows, **{"latency_budget_ms": LATENCY_MS, **parameters})
    response = httpx.post(f"{server.url}/v2/models/scale/infer", json=request, timeout=60)
    assert response.status_code == 200, response.text
    answer = response.json()
    outputs = outputs_of(answer)
    np.testing.assert_array_equal(outputs["y"], rows * 3)
    return answer["parameters"], [tag for (tag,) in outputs["tag"]]


def is_ready(server: Server) -> bool | float:
    ready = server.metric("gearshift_variant_ready", variant="cloud")
    return ready == 1 or ready


def is_away(server: Server) -> bool | float:
    ready = server.metric("gearshift_variant_ready", variant="cloud")
    return ready == 0 or ready


def test_the_cloud_answers_while_it_is_there(start: Start, edge_repository: Callable[[str], Path]) -> None:
    cloud = start("--engine", "inprocess")
    edge = start("--engine", "inprocess", "--models", str(edge_repository(cloud.url)), models=False)
    eventually("the endpoint is found", lambda: is_ready(edge), BACK_WITHIN_S)
    told, tags = ask(edge)
    assert (told["variant"], tags) == ("cloud", [CLOUD_TAG])
    assert ask(edge, variant="quick")[1] == [SCALE_TAGS["quick"]]
    told, tags = ask(edge, prefer="latency")
    assert told["variant"] == "quick"

    ends: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=edge.url, timeout=60) as client:
            while not stop.is_set():
                request = scale_request(ROWS, latency_budget_ms=LATENCY_MS)
                response = client.post("/v2/models/scale/infer", json=request)
                found = response.json()
                ends[response.status_code, found.get("parameters", found).get("variant", response.text)] += 1

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call) for _ in range(CALLERS)]
        try:
            eventually("the cloud is used", lambda: ends[200, "cloud"] >= 20 or ends, BACK_WITHIN_S)
            cloud.kill()
            eventually("the breaker opens", lambda: is_away(edge), BACK_WITHIN_S)
            before = ends[200, "medium"]
            eventually("others answer", lambda: ends[200, "medium"] >= before + 20 or ends, BACK_WITHIN_S)
            start("--engine", "inprocess", ports=(cloud.port, cloud.metrics_port))
            eventually("it comes back", lambda: is_ready(edge), BACK_WITHIN_S)
            before = ends[200, "cloud"]
            eventually("the cloud is used again", lambda: ends[200, "cloud"] >= before + 20 or ends, BACK_WITHIN_S)
        finally:
            stop.set()
        for caller in callers:
            caller.result()
    assert {status for status, _ in ends} == {200}, ends
    outcomes = edge.outcomes("scale")
    assert outcomes["met"] == sum(outcomes.values()) == ends.total() + 3
    assert edge.metric("gearshift_remote_failures_total", variant="cloud") >= 3


def test_a_server_starts_without_its_cloud(start: Start, edge_repository: Callable[[str], Path]) -> None:
    edge = start("--engine", "inprocess", "--models", str(edge_repository("http://127.0.0.1:9")), models=False)
    told, _ = ask(edge)
    assert (told["variant"], told["reason"]) == ("medium", "unavailable")
    pinned = scale_request(ROWS, variant="cloud")
    answer = httpx.post(f"{edge.url}/v2/models/scale/infer", json=pinned, timeout=60)
    assert answer.status_code == 503
    assert "only variant 'cloud'" in answer.json()["error"]
    described = httpx.get(f"{edge.url}/v2/models/scale", timeout=60).json()["gearshift"]["variants"]
    (cloud,) = (variant for variant in described if variant["name"] == "cloud")
    assert cloud["remote"] == {"model": "scale", "timeout_ms": LATENCY_MS}
    assert "127.0.0.1:9" not in str(described)


def test_a_cloud_of_another_kind_stops_the_start(start: Start, edge_repository: Callable[[str], Path]) -> None:
    cloud = start("--engine", "inprocess")
    repository = edge_repository(cloud.url)
    manifest = repository / "scale" / "1" / "family.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"model": "scale"', '"model": "pair"'))
    with pytest.raises(AssertionError, match="has no input 'x'"):
        start("--engine", "inprocess", "--models", str(repository), models=False)


UNSURE, SURE = [1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0]


def check_cascade(server: Server) -> None:
    rows = np.array([UNSURE, SURE, UNSURE, SURE, SURE])
    told, tags = ask(server, rows, variant="both")
    quick, medium = SCALE_TAGS["quick"], SCALE_TAGS["medium"]
    assert tags == [medium, quick, medium, quick, quick]
    assert (told["variant"], told["accuracy"], told["escalated"]) == ("both", 0.75, 0.4)
    assert ask(server, np.array([SURE]), variant="both")[0]["escalated"] == 0.0


def test_a_cascade_sends_on_the_rows_in_doubt(start: Start, edge_repository: Callable[[str], Path]) -> None:
    server = start("--engine", "inprocess", "--models", str(edge_repository("http://127.0.0.1:9")), models=False)
    check_cascade(server)
    ten = [ask(server, np.array([UNSURE]), variant="both") for _ in range(10)]
    assert {told["escalated"] for told, _ in ten} == {1.0}


@pytest.mark.ray
def test_workers_elsewhere_do_the_same(start: Start, edge_repository: Callable[[str], Path]) -> None:
    cloud = start("--engine", "inprocess")
    options = ("--engine", "ray", "--topology", "split", "--workers", "1")
    edge = start(*options, "--models", str(edge_repository(cloud.url)), models=False)
    check_cascade(edge)
    eventually("the endpoint is found", lambda: is_ready(edge), BACK_WITHIN_S)
    assert ask(edge)[1] == [CLOUD_TAG]
    cloud.kill()
    for _ in range(4):
        told, tags = ask(edge)
        assert (told["variant"], tags) == ("medium", [SCALE_TAGS["medium"]])
        time.sleep(0)
    eventually("the breaker opens", lambda: is_away(edge), BACK_WITHIN_S)


def test_the_same_again_is_given_from_memory(start: Start) -> None:
    server = start("--engine", "inprocess", env={"GEARSHIFT_CACHE__MODELS": "scale,fashion"})
    first, _ = ask(server)
    again, tags = ask(server)
    assert ("cached" in first, again["cached"], tags) == (False, True, [SCALE_TAGS["exact"]])
    other, _ = ask(server, ROWS + 1)
    assert "cached" not in other
    lesser, tags = ask(server, variant="quick")
    assert ("cached" in lesser, tags) == (False, [SCALE_TAGS["quick"]])
    stats = httpx.get(f"{server.url}/v2/models/scale/stats", timeout=60).json()["model_stats"][0]["inference_stats"]
    assert (stats["cache_hit"]["count"], stats["cache_miss"]["count"]) == (1, 3)
    assert stats["success"]["count"] == 4
    eventually("its size is told", lambda: server.metric("gearshift_cache_bytes", model="scale") > 0)
    assert server.metric("gearshift_cache_bytes", model="fashion") == 0
