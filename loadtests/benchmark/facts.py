"""Facts of the machine and the software that a number needs beside it."""

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

_PACKAGES = ("onnxruntime", "numpy", "orjson", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "ray")


def machine_facts(generator: str) -> dict[str, str]:
    """Return name -> value, ready to print; `generator` is what makes the load."""
    facts = {
        "CPU": cpu_model(),
        "cores": f"{usable_cores()} usable, shared by server and load generator",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "load generator": generator,
    }
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return facts


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name; of an unnamed one (Arm, other systems) its architecture."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()


def usable_cores() -> int:
    """Return how many logical cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
