"""A real Prometheus scrapes a real gateway under load: every panel and every alert has something to look at."""

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import httpx
import pytest
import yaml

from monitoring.dashboard import dashboard_rows
from monitoring.generate import HERE, RULES
from monitoring.rules import alerts, recordings
from tests.integration.conftest import Starter
from tests.integration.harness.crowd import crowd, scale_questions
from tests.integration.harness.servers import Server, eventually, free_port
from tests.support.collector import Collector, collecting
from tests.support.prometheus import Prometheus, needed, promtool, serving

CLIENTS = 4
SCRAPE_INTERVAL = "500ms"
WINDOW = "20s"
COLLECTED_WITHIN_S = 60.0
EXPRESSIONS = {
    f"{panel.title}: {query.legend or number}": query.expression
    for panels in dashboard_rows().values()
    for panel in panels
    for number, query in enumerate(panel.queries)
}
PAIR = {
    "inputs": [
        {"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]},
        {"name": "b", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
    ]
}
VARIABLES = {"$__rate_interval": WINDOW, "$job": ".*", "$model": ".*"}

pytestmark = pytest.mark.server


@dataclass(frozen=True)
class Scene:
    """Everything that runs, and has run long enough to be looked at."""

    server: Server
    prometheus: Prometheus
    collector: Collector


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, repository: Path, profile_cache: Path) -> Iterator[Scene]:
    needed("prometheus")
    folder = tmp_path_factory.mktemp("monitoring")
    starter = Starter(folder, repository, profile_cache)
    with collecting() as collector:
        chosen = {
            "GEARSHIFT_TRACING__ENDPOINT": collector.url,
            "GEARSHIFT_TRACING__SAMPLE_RATIO": "0.2",
            "GEARSHIFT_CACHE__MODELS": "pair",
        }
        server = starter("--engine", "inprocess", env=chosen)
        try:
            watching = serving(configured(folder, server), free_port(), "--enable-feature=exemplar-storage")
            with watching as prometheus, loaded(server):
                eventually("every recording rule has a value", lambda: recorded(prometheus), COLLECTED_WITHIN_S)
                eventually("a trace arrived", lambda: bool(collector.spans), COLLECTED_WITHIN_S)
                yield Scene(server, prometheus, collector)
        finally:
            server.destroy()


def configured(folder: Path, server: Server) -> Path:
    """Our rules, evaluated as often as the test scrapes."""
    rules = yaml.safe_load((HERE / RULES).read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group["interval"] = SCRAPE_INTERVAL
    (folder / RULES).write_text(yaml.safe_dump(rules))
    config = yaml.safe_load((HERE / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": SCRAPE_INTERVAL, "scrape_timeout": SCRAPE_INTERVAL}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"{server.host}:{server.metrics_port}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


class loaded:  # noqa: N801 - reads as a verb
    """Callers who ask until the block ends, one of them for the same again and for what is not there."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _ask(self) -> None:
        questions = [scale_questions(seed, [{}, {"min_accuracy": 0.7}]) for seed in range(CLIENTS)]
        lost = threading.Thread(target=self._ask_again, daemon=True)
        lost.start()
        asyncio.run(crowd((self._server.host, self._server.port), questions, lambda _: not self._ended.is_set()))
        lost.join(30)

    def _ask_again(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=10) as client:
            while not self._ended.wait(0.2):
                client.post("/v2/models/nobody/infer", content=b"{}")
                client.post("/v2/models/pair/infer", json=PAIR)


def recorded(prometheus: Prometheus) -> bool | list[str]:
    empty = [record.name for record in recordings() if not values(prometheus, record.name)]
    return empty or True


def values(prometheus: Prometheus, expression: str) -> list[float]:
    """Values of an expression now, those that are numbers."""
    found = [float(sample["value"][1]) for sample in prometheus.query(expression)]
    return [value for value in found if not isnan(value)]


@pytest.mark.parametrize("title", list(EXPRESSIONS))
def test_every_panel_shows_something(scene: Scene, title: str) -> None:
    expression = EXPRESSIONS[title]
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    assert values(scene.prometheus, expression), expression


@pytest.mark.parametrize("record", recordings(), ids=lambda record: record.name)
def test_every_signal_has_a_value(scene: Scene, record: object) -> None:
    assert values(scene.prometheus, record.name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_what_an_alert_looks_at_is_there_and_it_does_not_fire(scene: Scene, alert: object) -> None:
    expression: str = alert.expression  # type: ignore[attr-defined]
    signals = set(re.findall(r"\b(?:[a-z_]+:)?gearshift_[a-z_]+(?::\w+)?", expression))
    assert signals
    for signal in signals:
        assert values(scene.prometheus, signal), signal
    firing = scene.prometheus.query(f'ALERTS{{alertstate="firing",alertname="{alert.name}"}}')  # type: ignore[attr-defined]
    assert firing == []


def test_prometheus_took_our_rules_without_an_error(scene: Scene) -> None:
    groups = scene.prometheus.get("/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(recordings()) + len(alerts())
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []


def test_the_scrape_succeeds_and_its_numbers_are_the_servers(scene: Scene) -> None:
    (target,) = scene.prometheus.get("/api/v1/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    (replicas,) = values(scene.prometheus, "gearshift_replicas")
    assert replicas == 1
    seen = sum(values(scene.prometheus, 'gearshift_outcome_total{model="scale",outcome="met"}'))
    assert 0 < seen <= scene.server.metric("gearshift_outcome_total", model="scale", outcome="met")


def test_a_bucket_leads_to_a_trace_the_collector_has(scene: Scene) -> None:
    def led() -> bool:
        found = scene.prometheus.get(
            "/api/v1/query_exemplars", query="gearshift_request_duration_seconds_bucket", start=0, end=4e9
        )
        shown = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
        return bool(shown & {span.trace_id.hex() for span in scene.collector.spans})

    eventually("an exemplar names a collected trace", led, COLLECTED_WITHIN_S)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_the_page_passes_the_lint_of_prometheus(scene: Scene, accept: str) -> None:
    url = f"http://{scene.server.host}:{scene.server.metrics_port}/metrics"
    page = httpx.get(url, headers={"accept": accept}, timeout=10)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("application/openmetrics-text" if accept else "text/plain")
    if not accept:  # promtool of this age reads the plain text only
        checked = promtool("check", "metrics", text=page.content)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
