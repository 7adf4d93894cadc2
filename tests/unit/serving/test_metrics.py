import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import DERIVED, ROWS, TABLE, Histogram, Metrics, Spec, samples, stat

MODEL = ("m", "1")
UNITS = ("_seconds", "_rows", "_bytes", "_ratio", "_joules")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Metrics]]:
    """Replicas of one node: all share a folder."""
    made: list[Metrics] = []

    def one() -> Metrics:
        made.append(Metrics(tmp_path))
        return made[-1]

    yield one
    for metrics in made:
        metrics.close()


def test_the_replicas_of_a_node_add_up(make: Callable[[], Metrics]) -> None:
    first, second = make(), make()
    for turn, metrics in enumerate((first, second), start=1):
        metrics.counter("gearshift_outcome_total", *MODEL, "met").value += 10 * turn
        metrics.counter("gearshift_workers").value = 2
        metrics.counter("gearshift_slowdown_ratio", *MODEL).value = 1.0 + turn
        metrics.histogram("gearshift_batch_rows", *MODEL, "v").observe(3)
        metrics.flush()
    for metrics in (first, second):
        families = metrics.collect()
        assert stat(families, "gearshift_outcome_total", outcome="met") == 30
        assert stat(families, "gearshift_workers") == 4
        assert stat(families, "gearshift_slowdown_ratio") == 2.0  # the least
        assert stat(families, "gearshift_batch_rows_count") == 2
        assert stat(families, "gearshift_batch_rows_sum") == 6


def test_counters_outlive_a_replica_and_gauges_do_not(make: Callable[[], Metrics]) -> None:
    gone, stays = make(), make()
    gone.counter("gearshift_outcome_total", *MODEL, "met").value += 7
    gone.counter("gearshift_workers").value = 5
    gone.close()
    stays.counter("gearshift_workers").value = 2
    stays.flush()
    assert stat(stays.collect(), "gearshift_outcome_total") == 7
    assert stat(stays.collect(), "gearshift_workers") == 2


KILLED = """
import os, sys
from pathlib import Path
from serving.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics.counter("gearshift_outcome_total", "m", "1", "met").value = 7
metrics.counter("gearshift_workers").value = 5
metrics.flush()
os._exit(0)
"""


def test_a_killed_replica_leaves_its_counters_only(make: Callable[[], Metrics], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, timeout=60)
    assert list(tmp_path.glob("gauge_*.db"))
    metrics = make()
    metrics.counter("gearshift_workers").value = 1
    metrics.flush()
    families = metrics.collect()
    assert stat(families, "gearshift_outcome_total") == 7
    assert stat(families, "gearshift_workers") == 1


def test_the_page_is_what_prometheus_reads(make: Callable[[], Metrics]) -> None:
    metrics = make()
    for spec in TABLE:
        labels = [f"l{number}" for number in range(len(spec.labels))]
        if spec.kind == "histogram":
            metrics.histogram(spec.name, *labels).observe(0.3)
        else:
            metrics.counter(spec.name, *labels).value = 2
    metrics.flush()
    families = {family.name: family for family in text_string_to_metric_families(metrics.page()[0].decode())}
    assert set(families) == {spec.name.removesuffix("_total") for spec in (*TABLE, *DERIVED)}
    for spec in (*TABLE, *DERIVED):
        family = families[spec.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (spec.kind, spec.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)


def test_buckets_hold_what_was_observed(make: Callable[[], Metrics]) -> None:
    metrics = make()
    histogram = metrics.histogram("gearshift_batch_rows", *MODEL, "v")
    for rows in (1, 2, 2, 3, 256, 1000):
        histogram.observe(rows)
    metrics.flush()
    text = metrics.page()[0].decode()
    (family,) = [f for f in text_string_to_metric_families(text) if f.name == "gearshift_batch_rows"]
    found = {labels["le"]: value for labels, value in samples([family], "gearshift_batch_rows_bucket")}
    assert found["1.0"] == 1
    assert found["2.0"] == 3
    assert found["4.0"] == 4
    assert found["128.0"] == 4
    assert found["256.0"] == 5
    assert found["+Inf"] == 6


@given(st.lists(st.floats(0, 1000)))
def test_a_value_falls_into_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram(ROWS)
    for value in values:
        histogram.observe(value)
    for number, bound in enumerate(ROWS):
        assert sum(histogram.counts[: number + 1]) == sum(value <= bound for value in values)
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_derived_gauges(make: Callable[[], Metrics]) -> None:
    first, second = make(), make()
    for metrics in (first, second):
        metrics.counter("gearshift_rows_total", *MODEL, "met").value = 3
        metrics.counter("gearshift_rows_total", *MODEL, "expired").value = 1
        metrics.counter("gearshift_accuracy_total", *MODEL).value = 2.7
        metrics.counter("gearshift_rows_total", "unmeasured", "1", "met").value = 3
        metrics.counter("gearshift_workers").value = 2
        metrics.counter("gearshift_workers_busy").value = 1
        metrics.flush()
    families = first.collect()
    assert stat(families, "gearshift_effective_accuracy", model="m") == pytest.approx(2.7 / 4)
    assert not [
        labels for labels, _ in samples(families, "gearshift_effective_accuracy") if labels["model"] == "unmeasured"
    ]
    assert stat(families, "gearshift_worker_busy_ratio") == 0.5


def test_a_fresh_node_has_a_page(make: Callable[[], Metrics]) -> None:
    assert list(text_string_to_metric_families(make().page()[0].decode())) == []


def test_what_changed_is_written_and_what_did_not_stays(make: Callable[[], Metrics]) -> None:
    metrics = make()
    counter = metrics.counter("gearshift_refused_total", "404")
    counter.value += 1
    assert stat(metrics.collect(), "gearshift_refused_total") == 0  # not flushed yet
    metrics.flush()
    metrics.flush()
    counter.value += 1
    metrics.flush()
    assert stat(metrics.collect(), "gearshift_refused_total") == 2
    assert metrics.counter("gearshift_refused_total", "404") is counter


@pytest.mark.parametrize(
    ("kind", "name", "labels"),
    [
        ("counter", "gearshift_unknown_total", ()),
        ("counter", "gearshift_outcome_total", ("m",)),
        ("counter", "gearshift_batch_rows", (*MODEL, "v")),
        ("histogram", "gearshift_outcome_total", (*MODEL, "met")),
        ("histogram", "gearshift_batch_rows", MODEL),
    ],
)
def test_what_is_not_in_the_table_is_our_own_bug(
    make: Callable[[], Metrics], kind: str, name: str, labels: tuple[str, ...]
) -> None:
    with pytest.raises(TypeError):
        getattr(make(), kind)(name, *labels)


def test_a_series_keeps_its_kind(make: Callable[[], Metrics]) -> None:
    metrics = make()
    metrics.counter("gearshift_workers")
    metrics.histogram("gearshift_batch_rows", *MODEL, "v")
    with pytest.raises(TypeError):
        metrics.histogram("gearshift_workers")
    with pytest.raises(TypeError):
        metrics.counter("gearshift_batch_rows", *MODEL, "v")


@pytest.mark.parametrize("spec", [*TABLE, *DERIVED], ids=lambda spec: spec.name)
def test_names_follow_the_rules_of_prometheus(spec: Spec) -> None:
    assert sum(other.name == spec.name for other in (*TABLE, *DERIVED)) == 1
    assert spec.name.startswith("gearshift_")
    assert (spec.kind == "counter") == spec.name.endswith("_total")
    assert not spec.name.endswith(("_count", "_sum", "_bucket", "_ms", "_milliseconds"))
    assert bool(spec.buckets) == (spec.kind == "histogram")
    assert list(spec.buckets) == sorted(set(spec.buckets))
    if spec.kind == "histogram":
        assert spec.name.endswith(UNITS)
    assert spec.help.endswith(".")
    assert "le" not in spec.labels
