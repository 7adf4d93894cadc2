import os
import time
from pathlib import Path

import psutil
import pytest

from serving.metrics import Metrics, samples, stat
from serving.process_metrics import ProcessMetrics


def test_a_process_tells_what_it_takes_and_what_it_is(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    process = ProcessMetrics(metrics, "worker")
    with (tmp_path / "held").open("w"):
        before_s = sum(os.times()[:2])
        process.update()
        metrics.flush()
        families = metrics.collect()
        assert stat(families, "gearshift_process_open_fds", role="worker") >= 3
    assert stat(families, "gearshift_process_cpu_seconds_total") == pytest.approx(before_s, abs=1.0)
    resident = psutil.Process().memory_info().rss
    assert stat(families, "gearshift_process_resident_memory_bytes") == pytest.approx(resident, rel=0.5)
    assert 0 < stat(families, "gearshift_process_start_time_seconds") <= time.time() + 1
    ((labels, value),) = samples(families, "gearshift_build_info")
    assert value == 1
    assert all(labels.values())
    metrics.close()


def test_replicas_are_counted_while_they_live_and_their_starts_for_ever(tmp_path: Path) -> None:
    first, second = Metrics(tmp_path), Metrics(tmp_path)
    for metrics in (first, second):
        ProcessMetrics(metrics)
        metrics.flush()
    assert stat(second.collect(), "gearshift_replicas") == 2
    first.close()
    families = second.collect()
    assert stat(families, "gearshift_replicas") == 1
    assert stat(families, "gearshift_replica_starts_total") == 2
    second.close()
