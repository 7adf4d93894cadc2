from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from serving.exemplars import ExemplarFile, read_exemplars
from serving.metrics import Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
KEY = ("gearshift_queue_duration_seconds", ("m", "1"), "0.5")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Metrics]]:
    made: list[Metrics] = []

    def one() -> Metrics:
        made.append(Metrics(tmp_path))
        return made[-1]

    yield one
    for metrics in made:
        metrics.close()


def shown(metrics: Metrics, accept: str = OPENMETRICS) -> dict[str, tuple[str, float]]:
    """Trace id and value by the bound of the bucket they are beside."""
    page, _ = metrics.page(accept)
    return {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.exemplar is not None
    }


def observe(metrics: Metrics, seconds: float, trace_id: str) -> None:
    histogram = metrics.histogram("gearshift_queue_duration_seconds", "m", "1")
    histogram.observe(seconds)
    histogram.exemplify(seconds, trace_id)
    metrics.flush()


def test_an_exemplar_is_beside_the_bucket_its_value_was_counted_in(make: Callable[[], Metrics]) -> None:
    metrics = make()
    observe(metrics, 0.3, "a")
    observe(metrics, 0.5, "b")  # a bound belongs to its own bucket
    observe(metrics, 99.0, "c")
    assert shown(metrics) == {"0.5": ("b", 0.5), "+Inf": ("c", 99.0)}


@pytest.mark.parametrize("newest", [0, 1])
def test_replicas_show_the_latest_of_all(
    make: Callable[[], Metrics], monkeypatch: pytest.MonkeyPatch, newest: int
) -> None:
    ticks = count(1_700_000_000.0, 1e-5)  # closer than what is shown of the time can tell apart
    monkeypatch.setattr("serving.metrics.time.time", lambda: next(ticks))
    replicas = make(), make()
    observe(replicas[1 - newest], 0.3, "older")
    observe(replicas[newest], 0.4, "newer")
    observe(replicas[1 - newest], 0.003, "alone")
    for metrics in replicas:
        assert shown(metrics) == {"0.5": ("newer", 0.4), "0.005": ("alone", 0.003)}


def test_a_stopped_replica_takes_its_exemplars_along(make: Callable[[], Metrics], tmp_path: Path) -> None:
    first, second = make(), make()
    observe(first, 0.3, "gone")
    first.close()
    assert shown(second) == {}
    assert list(tmp_path.glob("exemplars_*")) == []


def test_those_of_a_killed_replica_go(make: Callable[[], Metrics], tmp_path: Path) -> None:
    killed = ExemplarFile(tmp_path, "999999999-abc")
    killed.write({KEY: ("gone", 0.3, 1.0)})
    metrics = make()
    observe(metrics, 0.001, "here")
    assert shown(metrics) == {"0.001": ("here", 0.001)}


def test_the_plain_text_has_none(make: Callable[[], Metrics]) -> None:
    metrics = make()
    observe(metrics, 0.3, "a")
    page, kind = metrics.page()
    assert kind.startswith("text/plain")
    assert b"trace_id" not in page


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=nonsense",
        "application/openmetrics-text; version=0.0.1",
        "*/*",
        "\xff;;=,",
    ],
)
def test_whatever_is_asked_for_there_is_a_page(make: Callable[[], Metrics], accept: str) -> None:
    metrics = make()
    observe(metrics, 0.3, "a")
    page, kind = metrics.page(accept)
    assert b"gearshift_queue_duration_seconds_bucket" in page
    assert kind


def test_a_file_is_rewritten_only_for_something_new(tmp_path: Path) -> None:
    file = ExemplarFile(tmp_path, "1-abc")
    file.write({})
    assert list(tmp_path.iterdir()) == []
    file.write({KEY: ("a", 0.3, 1.0)})
    (written,) = tmp_path.iterdir()
    before = written.stat().st_ino
    file.write({KEY: ("a", 0.3, 1.0)})
    assert written.stat().st_ino == before
    file.write({KEY: ("b", 0.4, 2.0)})
    assert read_exemplars(tmp_path) == {KEY: ("b", 0.4, 2.0)}
    file.remove()
    assert read_exemplars(tmp_path) == {}
