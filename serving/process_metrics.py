"""What this process takes from the host, and what it is."""

import platform
from importlib.metadata import version
from typing import Literal

import psutil

from serving.metrics import Metrics


class ProcessMetrics:
    """Memory, files and processor time of one replica, and its share in the count of replicas."""

    def __init__(self, metrics: Metrics, role: Literal["gateway", "worker"] = "gateway") -> None:
        self._process = psutil.Process()
        self._memory = metrics.counter("gearshift_process_resident_memory_bytes", role)
        self._files = metrics.counter("gearshift_process_open_fds", role)
        self._cpu_s = metrics.counter("gearshift_process_cpu_seconds_total", role)
        metrics.counter("gearshift_replicas", role).value = 1
        metrics.counter("gearshift_replica_starts_total", role).value += 1
        metrics.counter("gearshift_process_start_time_seconds", role).value = self._process.create_time()
        build = version("gearshift"), platform.python_version(), version("onnxruntime")
        metrics.counter("gearshift_build_info", *build).value = 1
        self.update()

    def update(self) -> None:
        """Look again. About 0.1 ms."""
        times = self._process.cpu_times()
        self._cpu_s.value = times.user + times.system
        self._memory.value = self._process.memory_info().rss
        self._files.value = self._process.num_fds()
